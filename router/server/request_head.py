"""Request heads as Go's net/http accepts them, rewritten in one strict form. Pure.

Go also accepts a lone LF as line end, folded header lines, and any token as the method. httptools does not, and its
leniency for LF extends to chunk sizes, which would allow request smuggling (CVE-2025-22871).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from vllama_pool.router.server.request_target import InvalidTarget, parse_target

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([^ ]+) HTTP/([0-9])\.([0-9])")
LENGTH = re.compile(rb"[0-9]{1,18}")
HOST = re.compile(rb"[0-9A-Za-z!$%&'()*+,\-.:;=@\[\]_~]*")
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_SINGLE = _FRAMING | {b"host"}
_UPGRADE = frozenset({b"upgrade", b"http2-settings"})
_BLANKS = (b" ", b"\t")
_CHUNKED = -1


class InvalidHead(ValueError):
    """The text says why, for the client."""


class RequestHead(NamedTuple):
    strict: bytes
    """The head for httptools."""
    length: int
    """Bytes of the body; negative if it is chunked."""
    method: str | None = None
    """Replaces the method of `strict`: httptools knows only some, and none affects the framing."""
    path: str | None = None
    """Replaces the path of `strict` for targets other than a path."""

    @property
    def chunked(self) -> bool:
        return self.length == _CHUNKED


def parse_head(head: bytes) -> RequestHead:
    """Read a head up to and including its blank line. Raises InvalidHead."""
    head = head.replace(b"\r\n", b"\n")
    if b"\r" in head:
        raise InvalidHead("a CR without LF is in the request's head; end lines with CRLF")
    line, *fields = head[:-2].split(b"\n")
    if not (match := _REQUEST_LINE.fullmatch(line)):
        raise InvalidHead("the request line is invalid; send METHOD TARGET HTTP/1.1")
    method, raw_target, major, minor = match.groups()
    if major != b"1":
        raise InvalidHead("the HTTP version is not supported; send HTTP/1.1")
    try:
        target = parse_target(method, raw_target)
    except InvalidTarget as error:
        raise InvalidHead(str(error)) from None
    fields, checked = _read_fields(fields)
    version = b"1.0" if minor == b"0" else b"1.1"
    length = _body_length(checked, http10=minor == b"0")
    if target.host:
        fields = [b"Host: " + target.host, *(field for field in fields if _name(field) != b"host")]
    if target.path == "":
        fields = [b"Connection: close", *fields]
    fields = [field.rstrip(b" \t") for field in fields]
    strict = b"\r\n".join([b"POST %b HTTP/%b" % (target.origin, version), *fields, b"", b""])
    return RequestHead(strict, length, method.decode(), target.path)


def _read_fields(fields: list[bytes]) -> tuple[list[bytes], dict[bytes, bytes]]:
    """Return the header lines without folds and offers to upgrade, and the values of `_SINGLE` headers."""
    checked: dict[bytes, bytes] = {}
    upgrades = False
    for field in fields:
        if field.startswith(_BLANKS):
            return _read_fields(_unfold(fields))
        name, _, value = field.partition(b":")
        lower = name.lower()
        if lower in _SINGLE:
            if lower in checked:
                raise InvalidHead(f"the header {name.decode()} is repeated; send it once")
            checked[lower] = value.strip(b" \t")
        elif lower in _UPGRADE:
            upgrades = True
    return (_without_upgrade(fields) if upgrades else fields), checked


def _unfold(fields: list[bytes]) -> list[bytes]:
    """Join folded lines, as Go does. A folded length or transfer coding is refused: proxies read it in many ways."""
    unfolded: list[bytes] = []
    for field in fields:
        if not field.startswith(_BLANKS):
            unfolded.append(field)
        elif unfolded and _name(unfolded[-1]) not in _FRAMING:
            unfolded[-1] = unfolded[-1].rstrip(b" \t") + b" " + field.strip(b" \t")
        else:
            raise InvalidHead("a header line is folded; send each header in one line")
    return unfolded


def _body_length(checked: dict[bytes, bytes], *, http10: bool) -> int:
    """Return the body's length, or `_CHUNKED`. Refuse all that two parsers could read in two ways."""
    if not HOST.fullmatch(checked.get(b"host", b"")):
        raise InvalidHead("the Host header is invalid; send HOST or HOST:PORT")
    coding, length = checked.get(b"transfer-encoding"), checked.get(b"content-length")
    if coding is None:
        if length is not None and not LENGTH.fullmatch(length):
            raise InvalidHead("the Content-Length is not a decimal number; send the body's length in bytes")
        return int(length or 0)
    if length is not None:
        raise InvalidHead("both Content-Length and Transfer-Encoding are set; send one of them")
    if http10 or coding.lower() != b"chunked":
        raise InvalidHead("the Transfer-Encoding is not supported; send chunked, with HTTP/1.1")
    return _CHUNKED


def _without_upgrade(fields: list[bytes]) -> list[bytes]:
    """Java's client offers HTTP/2 with its first request, whose body httptools would take for HTTP/2."""
    return [kept for field in fields if (kept := _field_without_upgrade(field))]


def _field_without_upgrade(field: bytes) -> bytes:
    name, colon, value = field.partition(b":")
    if name.lower() in _UPGRADE:
        return b""
    if name.lower() != b"connection":
        return field
    words = [word.strip() for word in value.split(b",")]
    kept = b", ".join(word for word in words if word.lower() not in _UPGRADE)
    return name + colon + b" " + kept if kept else b""


def _name(field: bytes) -> bytes:
    return field.partition(b":")[0].lower()
