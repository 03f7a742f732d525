"""Writes a response to the client without a coroutine per write.

Handlers find the request's writer as `vllama.writer` in the scope. uvicorn's own cycle cannot write this way, so
`RequestCycle` does where it can; `SendWriter` has the same interface over any server's `send`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from vllama_pool.router.protocol.json_lines import NDJSON
from vllama_pool.router.server.asgi import Message, Scope, Send

WRITER = "vllama.writer"
"""Key of an ASGI scope."""
NDJSON_TYPE = (b"content-type", NDJSON.encode())
LAST_CHUNK = b"0\r\n\r\n"
SEND_ERRORS = (OSError, RuntimeError)
"""Errors of a server's `send` once its client is gone; uvloop raises RuntimeError."""

_BODYLESS = frozenset({204, 304})

HeaderPairs = Sequence[tuple[bytes, bytes]]


class ClientStalled(TimeoutError):
    """The client was dropped, because it did not read its response."""


class ResponseWriter(Protocol):
    """The client's end of one request. Once the client is gone, all methods do nothing."""

    extra_headers: HeaderPairs
    """Added to the response's head, after the handler's."""
    status: int
    """Of the response, once it has started; 0 before."""

    def start(self, status: int, headers: HeaderPairs) -> None:
        """Set the head, which leaves with the first write. Without Content-Length, the body is chunked."""

    def write(self, data: bytes, *, last: bool = False) -> bool:
        """Write part of the body. Of NDJSON, each line is a chunk of its own.

        Return False if the client is behind: await `drained` before the next write, and after the last one.
        """

    async def drained(self) -> None:
        """Wait until the client has caught up, or is gone. Raises ClientStalled."""

    def send(self, message: Message) -> Awaitable[None]:
        """ASGI's `send`, which adds `extra_headers`."""


class SendWriter:
    """Writes through ASGI's `send`. Every write has to be awaited."""

    def __init__(self, send: Send) -> None:
        self.extra_headers: HeaderPairs = ()
        self.status = 0
        self._send = send
        self._unsent: list[Message] = []

    def start(self, status: int, headers: HeaderPairs) -> None:
        self._unsent.append({"type": "http.response.start", "status": status, "headers": headers})

    def write(self, data: bytes, *, last: bool = False) -> bool:
        self._unsent.append({"type": "http.response.body", "body": data, "more_body": not last})
        return False

    async def drained(self) -> None:
        with suppress(*SEND_ERRORS):
            while self._unsent:
                await self.send(self._unsent.pop(0))
        self._unsent.clear()

    def send(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self.extra_headers]
        return self._send(message)


def response_writer(scope: Scope, send: Send) -> ResponseWriter:
    """Return the request's writer, or one over `send`."""
    writer: ResponseWriter | None = scope.get(WRITER)
    return SendWriter(send) if writer is None else writer


def response_head(status: int, headers: HeaderPairs) -> tuple[bytes, bool, bool]:
    """Return the status line and headers, and whether the body is chunked and NDJSON."""
    if not headers or headers[-1][0] != b"content-length":
        return _response_head(status, tuple(headers))
    *others, (name, length) = headers
    head, _, is_ndjson = _response_head(status, (*others, (name, b"")))  # lengths vary too much to be remembered
    return b"%b%b\r\n" % (head[:-2], length), False, is_ndjson


@lru_cache(256)
def _response_head(status: int, headers: tuple[tuple[bytes, bytes], ...]) -> tuple[bytes, bool, bool]:
    head = STATUS_LINE[status] + b"".join([b"%b: %b\r\n" % pair for pair in headers])
    chunked = status not in _BODYLESS and all(name != b"content-length" for name, _ in headers)
    return head + (b"transfer-encoding: chunked\r\n" if chunked else b""), chunked, NDJSON_TYPE in headers


def chunk(data: bytes) -> bytes:
    """Frame data as one HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def line_chunks(lines: bytes) -> bytes:
    """Frame each line as an HTTP chunk, because some clients parse each chunk they receive as one JSON document."""
    if lines.find(b"\n") + 1 in (0, len(lines)):
        return b"%x\r\n%b\r\n" % (len(lines), lines) if lines else b""
    *whole, rest = lines.split(b"\n")
    return b"".join([*(b"%x\r\n%b\n\r\n" % (len(line) + 1, line) for line in whole), chunk(rest)])
