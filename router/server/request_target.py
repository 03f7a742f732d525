"""Request targets as Go's net/http reads them: a path, an absolute URL, "*", or CONNECT's authority. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PLAIN = re.compile(rb"/[0-9A-Za-z/_.:~-]*")
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?]*)(.*)", re.DOTALL)
_AUTHORITY = re.compile(rb"(?:[0-9A-Za-z!$%&'()*+,\-.;:=_~]*@)?((?:\[[0-9A-Fa-f:.%]*\]|[0-9A-Za-z\-._~]*)(?::[0-9]*)?)")
_CONTROL = re.compile(rb"[\0-\x20\x7f]")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_LONGEST = 0xFFFF
"""Bytes of a percent-encoded target."""
_UNSAFE = re.compile(rb"[^!$-;=@-~]")


class InvalidTarget(ValueError):
    """The text says why, for the client."""


@dataclass(frozen=True, slots=True)
class Target:
    origin: bytes
    """Path and query, percent-encoded ASCII."""
    host: bytes = b""
    """An absolute URL's host and port, which replace the Host header; empty if it has none."""
    path: str | None = None
    """"*", or empty for CONNECT's authority. None if `origin` holds the path."""


def parse_target(method: bytes, raw: bytes) -> Target:
    """Raises InvalidTarget."""
    if _PLAIN.fullmatch(raw):
        return Target(raw)
    if _CONTROL.search(raw):
        raise InvalidTarget("the request target holds control characters; percent-encode them")
    if raw.startswith(b"/"):
        return Target(_encode(raw))
    if raw == b"*" and method == b"OPTIONS":
        return Target(b"/", path="*")
    if method == b"CONNECT" and _AUTHORITY.fullmatch(raw):
        return Target(b"/", path="")
    if match := _ABSOLUTE.fullmatch(raw):
        return _absolute(match[1], match[2])
    raise InvalidTarget("the request target is invalid; send a path that begins with /")


def _absolute(authority: bytes, rest: bytes) -> Target:
    if not (match := _AUTHORITY.fullmatch(authority)):
        raise InvalidTarget("the host in the request target is invalid; send a path that begins with /")
    return Target(_encode(rest if rest.startswith(b"/") else b"/" + rest), host=match[1])


def _encode(target: bytes) -> bytes:
    path, mark, query = target.partition(b"?")
    if _BAD_ESCAPE.search(path):
        raise InvalidTarget("the request target has an invalid percent-encoding; send % as %25")
    encoded = _UNSAFE.sub(_escape, path) + mark + _UNSAFE.sub(_escape, query)
    if len(encoded) > _LONGEST:
        raise InvalidTarget("the request target is too long; send a shorter one")
    return encoded


def _escape(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]
