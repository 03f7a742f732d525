"""uvicorn's HTTP protocol with a bound on request heads, which it has not: they are read before anybody is known."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 * 1024
"""Bytes of a request's line and headers, give or take a read at either end."""


class BoundedProtocol(HttpToolsProtocol):
    """Answers 400 to a head that does not end, and closes the connection."""

    _head = 0
    """Bytes of reads that held nothing but a part of the present head."""
    _in_head = True
    _served = 0
    """Messages that are complete."""

    def data_received(self, data: bytes) -> None:
        served = self._served
        super().data_received(data)
        if not self._in_head or self._served != served:
            self._head = 0
            return
        self._head += len(data)
        if self._head > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("The request's head is too large.")

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = True
        self._served += 1
        super().on_message_complete()
