"""Rules of requests and connections as Go's HTTP server handles them: R202 to R213."""

from __future__ import annotations

from vllama_pool.router.compat.rules.cross_endpoint import DISCONNECTED
from vllama_pool.router.compat.rules.rule import Rule

HTTP = "connections"

CONNECTIONS = (
    Rule(202, HTTP, "A lone LF ends a line of a request's head; folded lines are joined"),
    Rule(203, HTTP, "A lone LF after a chunk size is refused"),
    Rule(204, HTTP, "Requests whose length or host is ambiguous are refused"),
    Rule(205, HTTP, "An invalid request is a 400 in plain text, and the connection closes"),
    Rule(206, HTTP, "Absolute targets are served, unknown methods are a 405"),
    Rule(207, HTTP, "Unclean paths lead to the clean path, with every method"),
    Rule(208, HTTP, "HTTP/1.0 clients get no chunks; the connection closes unless they keep it"),
    Rule(209, HTTP, "Idle connections stay open"),
    Rule(210, HTTP, "A client that half-closes its connection gets its response"),
    Rule(
        211,
        HTTP,
        "A streamed generation ends when its client half-closes",
        unobservable="the answer may be complete before",
    ),
    Rule(212, HTTP, "Pipelined requests are answered in order"),
    Rule(213, HTTP, "A client that leaves ends its requests, pipelined ones too", unobservable=DISCONNECTED),
)
