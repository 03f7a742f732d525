"""Reads the request heads that nearly all clients send, without rewriting and without httptools. Pure.

A client repeats its head with each request, but for the Content-Length. So heads are remembered without it, and without
the credentials of Authorization and X-API-Key. Heads with other secrets are not remembered.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from vllama_pool.router.server.asgi import HEADERS, Scope
from vllama_pool.router.server.request_head import HOST, LENGTH

REMEMBERED_HEADS = 512
REMEMBERED_SIZE = 1024
"""Bytes of a head. With their number, bounds the memory that clients can fill."""

_LINE = re.compile(
    rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[0-9A-Za-z/_.:~-]*)(?:\?([a-z_]{1,32}=(?:true|false)))? HTTP/1\.1\r\n"
)
"""Of queries only a switch, as in Anthropic's "?beta=true": others may hold secrets, or vary with each request."""
_FIELD = re.compile(rb"(?<=\n)([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ?([!-~\x80-\xff][ -~\x80-\xff]*)\r\n")
_VARYING = re.compile(
    rb"\r\n(?:[Cc]ontent-[Ll]ength: ?([0-9]{1,18})"
    rb"|(?:[Aa]uthorization|[Xx]-[Aa]pi-[Kk]ey): ?([!-~]+(?: [!-~]+)*))(?=\r\n)"
)
"""Headers whose values are not remembered."""
_LENGTH = b"\r\nContent-Length: "
_LOWER_LENGTH = b"\r\ncontent-length: "
_MAX_DIGITS = 18
_VARYING_NAMES = frozenset({b"content-length", b"authorization", b"x-api-key"})
_PLACEHOLDERS = (b"", b"0", b"x")
"""By group of _VARYING."""
_UNUSUAL = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"http2-settings", b"proxy-connection"})
_SECRET = re.compile(rb"\n[^\r:]*(?:authorization|api-key|cookie|token):(?! ?x\r)", re.IGNORECASE)
"""A header with a secret, other than a placeholder."""
_KEEP_ALIVE = b"keep-alive"
_END = b"\r\n\r\n"


class _Template(NamedTuple):
    """The common part of heads that differ at most in the values of varying headers."""

    scope: dict[str, Any]
    headers: list[tuple[bytes, bytes]]
    by_name: dict[bytes, bytes]
    length: int
    varying: tuple[int, ...]
    """Indexes of the varying headers."""


UsualHead = tuple[Scope, int, int]
"""The parts of an ASGI scope that a head decides on, the head's size and the body's, in bytes."""


class UsualHeads:
    """Reads usual heads, and remembers them."""

    def __init__(self) -> None:
        self._remembered: dict[bytes, _Template | None] = {}

    def read(self, data: bytes, limit: int) -> UsualHead | None:
        """Read the head that `data` begins with, as httptools would. Return None if it is not a usual one.

        A usual head is one of HTTP/1.1 on a connection that stays open, has up to `limit` bytes, no header twice, and
        no blanks to trim.
        """
        end = data.find(_END, 0, limit)
        if end < 0:
            return None
        size = end + len(_END)
        head, values = _without_length(data, size)
        template = self._remembered.get(head)
        if template is None:
            head, values = without_values(data, size)
            template = self._remembered[head] if head in self._remembered else self._learn(head)
        if template is not None and len(template.varying) != len(values):
            template, values = _read(data[:size]), []
        return None if template is None else _fill(template, size, values)

    def _learn(self, head: bytes) -> _Template | None:
        template = _read(head)
        if len(head) <= REMEMBERED_SIZE and not _SECRET.search(head):
            if len(self._remembered) >= REMEMBERED_HEADS:
                self._remembered.clear()
            self._remembered[head] = template
        return template


def _fill(template: _Template, size: int, values: list[bytes]) -> UsualHead:
    scope, headers, by_name, length, varying = template
    scope = scope.copy()
    headers = scope["headers"] = headers.copy()
    by_name = scope[HEADERS] = by_name.copy()
    for index, value in zip(varying, values, strict=False):  # without values if they are the template's
        name = headers[index][0]
        headers[index] = name, value
        by_name[name] = value
        if name == b"content-length":
            length = int(value)
    return scope, size, length


def _without_length(data: bytes, size: int) -> tuple[bytes, list[bytes]]:
    """Do the same as `without_values` for a head whose only varying header is a Content-Length, as most write it."""
    name = data.find(_LENGTH, 0, size)
    if name < 0:
        name = data.find(_LOWER_LENGTH, 0, size)
    start = name + len(_LENGTH)
    end = data.find(b"\r", start)
    value = data[start:end]
    if name < 0 or not value.isdigit() or len(value) > _MAX_DIGITS:
        return data[:size], []
    return b"%b0%b" % (data[:start], data[end:size]), [value]


def without_values(data: bytes, size: int) -> tuple[bytes, list[bytes]]:
    """Return the head of `size` bytes with placeholders for the values of varying headers, and these values."""
    parts: list[bytes] = []
    values: list[bytes] = []
    start = 0
    for found in _VARYING.finditer(data, 0, size - 2):
        group = found.lastindex or 0
        parts += data[start : found.start(group)], _PLACEHOLDERS[group]
        values.append(found[group])
        start = found.end(group)
    return b"".join((*parts, data[start:size])), values


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
    varying = tuple(index for index, (name, _) in enumerate(headers) if name in _VARYING_NAMES)
    method, path, query = line.groups(default=b"")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "root_path": "",
        "method": method.decode(),
        "path": path.decode(),
        "raw_path": path,
        "query_string": query,
        "server": None,  # this and the following: of the request
        "client": None,
        "scheme": None,
        "headers": headers,
        HEADERS: by_name,
    }
    return _Template(scope, headers, by_name, int(length), varying)
