"""uvicorn's cycle of a request and its response, which also writes to the transport directly."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from vllama_pool.router.server.asgi import Message, Scope, request_headers
from vllama_pool.router.server.paced_lines import PacedLines, joins_chunks
from vllama_pool.router.server.writer import (
    LAST_CHUNK,
    NDJSON_TYPE,
    SEND_ERRORS,
    WRITER,
    HeaderPairs,
    chunk,
    line_chunks,
    response_head,
)


class RequestCycle(RequestResponseCycle):
    """Is the `ResponseWriter` of HTTP/1.1 requests, except HEAD. uvicorn's `send` serves the others.

    Attributes that few requests change are the class's.
    """

    scope: Any
    access_log = False
    waiting_for_100_continue = False
    more_body = True
    expected_content_length = 0
    chunked_encoding: bool | None = None
    status = 0
    extra_headers: HeaderPairs = ()
    _body: bytes | None = None
    """A whole body that was not received yet."""

    def __init__(self, scope: Scope, protocol: HttpToolsProtocol, *, keep_alive: bool) -> None:
        # uvicorn's __init__ sets nothing else
        self.scope = scope
        self.transport = protocol.transport
        self.flow = protocol.flow
        self.logger = protocol.logger
        self.default_headers = protocol.server_state.default_headers
        self.message_event = asyncio.Event()
        self.on_response = protocol.on_response_complete
        self.keep_alive = keep_alive
        self.body = bytearray()
        self.disconnected = self.response_started = self.response_complete = False
        self._head = b""
        """Waits for the first write."""
        self._writes_lines = False
        self._paced: PacedLines | None = None
        if protocol.expect_100_continue:
            self.waiting_for_100_continue = True
        self._writes = scope["method"] != "HEAD" and scope["http_version"] == "1.1"
        if self._writes:
            scope[WRITER] = self

    def set_body(self, body: bytes) -> None:
        """Set the whole body."""
        self._body = body
        self.more_body = False

    async def receive(self) -> Any:
        body, self._body = self._body, None
        if body is None or self.disconnected or self.response_complete:
            return await super().receive()
        return {"type": "http.request", "body": body, "more_body": False}

    def start(self, status: int, headers: HeaderPairs) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        self.status = status
        head, self.chunked_encoding, self._writes_lines = response_head(status, tuple(headers))
        for pair in self.default_headers:
            head += b"%b: %b\r\n" % pair
        for pair in self.extra_headers:
            head += b"%b: %b\r\n" % pair
        if self._writes_lines and joins_chunks(request_headers(self.scope).get(b"user-agent", b"")):
            self._paced = PacedLines(self.write, asyncio.get_running_loop().time)
        self._head = head + (b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")

    def write(self, data: bytes, *, last: bool = False) -> bool:
        if self.disconnected or self.response_complete:
            return True
        if (paced := self._paced) is not None and not paced.writing:
            paced.add(data, last=last)
            return not (paced.waiting or self.flow.write_paused)
        if self.chunked_encoding:
            data = line_chunks(data) if self._writes_lines else chunk(data)
            if last:
                data += LAST_CHUNK
        if self._head:
            data = self._head + data
            self._head = b""
        try:  # noqa: SIM105 - suppress() costs a tenth of a token
            self.transport.write(data)
        except SEND_ERRORS:
            pass  # the connection's end reports it
        if last:
            self._complete()
        return not self.flow.write_paused

    async def drained(self) -> None:
        if self._paced is not None:
            await self._paced.drain()
        if not self.disconnected:
            await self.flow.drain()

    def send(self, message: Message) -> Awaitable[None]:  # type: ignore[override]
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message["headers"] = [*message.get("headers", ()), *self.extra_headers]
            self._writes_lines = self._writes and NDJSON_TYPE in headers
        elif self._writes_lines and self.response_started:
            return self._send_lines(message)
        return super().send(message)  # type: ignore[arg-type]

    async def _send_lines(self, message: Message) -> None:
        if not self.write(message.get("body", b""), last=not message.get("more_body", False)):
            await self.drained()

    def _complete(self) -> None:
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
