"""Reads the request heads that nearly all clients send, without rewriting and without httptools. Pure.

A client repeats its head with each request, but for the Content-Length. So heads are remembered without it, unless they
hold credentials.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

from vllama_pool.router.server.asgi import HEADERS, Scope
from vllama_pool.router.server.request_head import HOST, LENGTH

REMEMBERED_HEADS = 512
REMEMBERED_SIZE = 1024
"""Bytes of a head. With their number, bounds the memory that clients can fill."""

_LINE = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[0-9A-Za-z/_.:~-]*) HTTP/1\.1\r\n")
_FIELD = re.compile(rb"(?<=\n)([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ?([!-~\x80-\xff][ -~\x80-\xff]*)\r\n")
_CONTENT_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ?([0-9]{1,18})\r\n")
_UNUSUAL = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"http2-settings", b"proxy-connection"})
_SECRET = (b"authorization:", b"api-key:", b"cookie:", b"token:")
_KEEP_ALIVE = b"keep-alive"
_END = b"\r\n\r\n"


class _Template(NamedTuple):
    """What heads have in common that differ in the value of their Content-Length at most."""

    scope: dict[str, Any]
    headers: list[tuple[bytes, bytes]]
    by_name: dict[bytes, bytes]
    length: int
    length_index: int
    """Index of the header Content-Length, or -1."""


UsualHead = tuple[Scope, int, int]
"""The parts of an ASGI scope that a head decides on, the head's size and the body's, in bytes."""


class _Forgotten(Exception):
    """Carries the template of a head that is not remembered."""

    def __init__(self, template: _Template | None) -> None:
        super().__init__()
        self.template = template


def usual_head(data: bytes, limit: int) -> UsualHead | None:
    """Read the head that `data` begins with, as httptools would. Return None if it is not a usual one.

    A usual head is one of HTTP/1.1 on a connection that stays open, has up to `limit` bytes, no header twice, and
    no blanks to trim.
    """
    end = data.find(_END, 0, limit)
    if end < 0:
        return None
    size = end + len(_END)
    sent = _CONTENT_LENGTH.search(data, 0, end + 2)
    head = data[:size] if sent is None else data[: sent.start(1)] + b"0" + data[sent.end(1) : size]
    try:
        template = _remembered(head)
    except _Forgotten as forgotten:
        template = forgotten.template
    if template is None:
        return None
    scope, headers, by_name, length, length_index = template
    scope = scope.copy()
    headers = scope["headers"] = headers.copy()
    if sent is not None:
        text = sent[1]
        length = int(text)
        headers[length_index] = (b"content-length", text)
        by_name = scope[HEADERS] = by_name.copy()
        by_name[b"content-length"] = text
    return scope, size, length


@lru_cache(REMEMBERED_HEADS)
def _remembered(head: bytes) -> _Template | None:
    """Raises _Forgotten for a head that must not be remembered, because lru_cache keeps no exceptions."""
    template, lower = _read(head), head.lower()
    if len(head) > REMEMBERED_SIZE or any(secret in lower for secret in _SECRET):
        raise _Forgotten(template)
    return template


def _read(head: bytes) -> _Template | None:
    line = _LINE.match(head)
    if line is None:
        return None
    fields = _FIELD.findall(head, line.end(), len(head) - len(b"\r\n"))
    headers = [(name.lower(), value) for name, value in fields]
    by_name = dict(headers)
    length = by_name.get(b"content-length", b"0")
    if (
        len(by_name) != head.count(b"\n", line.end()) - 1
        or b" \r" in head
        or not _UNUSUAL.isdisjoint(by_name)
        or by_name.get(b"connection", _KEEP_ALIVE).lower() != _KEEP_ALIVE
        or not LENGTH.fullmatch(length)
        or not HOST.fullmatch(by_name.get(b"host", b""))
    ):
        return None
    names = [name for name, _ in headers]
    index = names.index(b"content-length") if b"content-length" in by_name else -1
    method, path = line.groups()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "root_path": "",
        "method": method.decode(),
        "path": path.decode(),
        "raw_path": path,
        "query_string": b"",
        HEADERS: by_name,
    }
    return _Template(scope, headers, by_name, int(length), index)
