"""A connection that is refused before its first request."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from vllama_pool.router.protocol.error_bodies import error_body
from vllama_pool.router.server.asgi import JSON

MAX_WAITING = 16
"""Refused connections that may wait for their client. They use spare descriptors."""
FIRST_BYTES = 1.0
"""Seconds for the request: clients take a response without a request for a broken connection."""
CLOSING = 0.1
"""Seconds for the client to read the response, as a socket that closes with unread bytes is reset."""
_TARGET = re.compile(rb"[A-Z]+ (/[!-~]*)")


class RefusedConnection(asyncio.Protocol):
    """Answers the first request with 503 in the format of its path, and closes the connection."""

    def __init__(
        self, transport: asyncio.Transport, text: str, ended: Callable[[], object], *, waits: bool = True
    ) -> None:
        """`text`: the client's error. `ended` is called once. `waits`: for the request; else the answer is at once."""
        self._transport = transport
        self._text = text
        self._ended = ended
        self._answered = False
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(FIRST_BYTES, self._answer)
        self._loop = loop
        if not waits:
            self._answer()
            transport.close()

    def data_received(self, data: bytes) -> None:
        if not self._answered:
            found = _TARGET.match(data)
            self._answer(found[1].decode("ascii") if found else "/")

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._ended()

    def _answer(self, path: str = "/") -> None:
        self._timer.cancel()
        self._answered = True
        transport = self._transport
        if transport.is_closing():
            return
        transport.write(busy_response(path, self._text))
        if transport.can_write_eof():
            transport.write_eof()
        self._timer = self._loop.call_later(CLOSING, transport.close)


def busy_response(path: str, text: str) -> bytes:
    body = error_body(path, 503, text)
    head = b"content-type: %b\r\ncontent-length: %d\r\nretry-after: 1\r\nconnection: close\r\n\r\n"
    return STATUS_LINE[503] + head % (JSON.encode(), len(body)) + body
