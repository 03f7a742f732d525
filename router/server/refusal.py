"""Refusals before any handler: the reason, and a text for the log that says what to do. Pure.

Header values in the texts are quoted, in ASCII and cut, because anybody who can connect chooses them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum

from vllama_pool.config.redaction import HIDDEN

ON_REFUSAL = "vllama.on_refusal"
"""Key of the ASGI lifespan state: a function that takes the refusals of the HTTP protocol."""
SHOWN_LENGTH = 100
"""Characters of a header's value."""
_HOST = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?\Z|[0-9A-Fa-f:.]+\Z")
_USER = re.compile(r"^((?:[^/@]*://)?).*@", re.DOTALL)
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[A-Za-z0-9._:\[\]-]+\Z")


class Reason(StrEnum):
    """The label of `vllama_refusals_total`."""

    HOST = "host"
    ORIGIN = "origin"
    CROSS_SITE = "cross_site"
    """A form of another site's page."""
    MISSING_KEY = "missing_key"
    UNKNOWN_KEY = "unknown_key"
    ADMIN = "admin"
    """/admin and /metrics are closed to other machines."""
    MALFORMED = "malformed"
    """Not HTTP/1.x, or a request that two parsers could read in two ways."""
    SLOW = "slow"
    """The head or the body was not complete in time."""
    UNREAD = "unread"
    """The client did not read its response."""
    CONNECTIONS = "connections"
    """Too many connections."""


@dataclass(frozen=True, slots=True)
class Refusal:
    reason: Reason
    text: str
    """"what is wrong; what to do"."""


def foreign_host(host: str, name: str, *, configured: bool) -> Refusal:
    """`name`: the host without its port. `configured`: VLLAMA_ALLOWED_HOSTS is set."""
    host = _without_user(host)
    cure = "send the name of this router as the host"
    if "@" not in host and _is_short(name) and _HOST.match(name):
        cure = f"if this router has that name, {_setting('VLLAMA_ALLOWED_HOSTS', name, configured)}"
    return Refusal(Reason.HOST, f"Host {quoted(host)} is not allowed; {cure}")


def foreign_origin(origin: str, *, configured: bool) -> Refusal:
    """`configured`: VLLAMA_ORIGINS or OLLAMA_ORIGINS is set."""
    origin = _without_user(origin)
    cure = "open the page at an address of its own, such as https://app.example.com, and allow that in VLLAMA_ORIGINS"
    if _is_short(origin) and _ORIGIN.match(origin):
        cure = f"if you trust its pages, {_setting('VLLAMA_ORIGINS', origin, configured)}"
    return Refusal(Reason.ORIGIN, f"Origin {quoted(origin)} is not allowed; {cure}")


def cross_site(path: str) -> Refusal:
    text = "is a form of another site's page; send it by script, from an origin in VLLAMA_ORIGINS"
    return Refusal(Reason.CROSS_SITE, f"a request for {quoted(path)} {text}")


def missing_key(client: str, *, admin: bool = False) -> Refusal:
    """`client`: its address. `admin`: the path needs the admin key."""
    cure = "send VLLAMA_ADMIN_KEY" if admin else 'send one (make it with "vllama key new NAME")'
    return Refusal(Reason.MISSING_KEY, f"{_request(client)} has no key; {cure} as Authorization: Bearer KEY")


def unknown_key(client: str, *, admin: bool = False) -> Refusal:
    text = (
        "does not have the key in VLLAMA_ADMIN_KEY; correct the client's key"
        if admin
        else "has a key that is neither in VLLAMA_API_KEYS nor in the routing file; correct the client's key, or add it"
    )
    return Refusal(Reason.UNKNOWN_KEY, f"{_request(client)} {text}")


def admin_from_elsewhere(path: str, client: str) -> Refusal:
    text = f"for {quoted(path)} is not from this machine; set VLLAMA_ADMIN_KEY to open /admin and /metrics to others"
    return Refusal(Reason.ADMIN, f"{_request(client)} {text}")


def malformed(client: str, text: str) -> Refusal:
    """`client`: its address. `text`: "what is wrong; what to do", without the client's own words."""
    return Refusal(Reason.MALFORMED, f"{_request(client)} is malformed: {text}")


def too_slow(client: str, text: str) -> Refusal:
    """`client`: its address. `text`: "what is wrong; what to do"."""
    return Refusal(Reason.SLOW, f"{_request(client)} is too slow: {text}")


def unread(client: str, text: str) -> Refusal:
    """`client`: its address. `text`: "what is wrong; what to do"."""
    return Refusal(Reason.UNREAD, f"{_request(client)} is dropped: {text}")


def too_many(text: str) -> Refusal:
    """`text`: "what is wrong; what to do"."""
    return Refusal(Reason.CONNECTIONS, f"a connection: {text}")


def quoted(value: str) -> str:
    return json.dumps(value if _is_short(value) else f"{value[:SHOWN_LENGTH]}...")


def _without_user(value: str) -> str:
    """Hide user name and password, which clients may leave in an address."""
    return _USER.sub(rf"\1{HIDDEN}@", value)


def _request(client: str) -> str:
    return f"a request from {client or 'a Unix socket'}"


def _setting(variable: str, value: str, configured: bool) -> str:
    return f"add {value} to {variable}" if configured else f"set {variable}={value}"


def _is_short(value: str) -> bool:
    return len(value) <= SHOWN_LENGTH
