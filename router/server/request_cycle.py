"""uvicorn's cycle of a request and its response, which also writes to the transport directly."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from vllama_pool.router.protocol.json_lines import NDJSON
from vllama_pool.router.server.asgi import Message, Scope
from vllama_pool.router.server.writer import SEND_ERRORS, WRITER, HeaderPairs, chunks, line_chunks

_NDJSON = (b"content-type", NDJSON.encode())
_BODYLESS = frozenset({204, 304})
_LAST_CHUNK = b"0\r\n\r\n"


class RequestCycle(RequestResponseCycle):
    """Is the `ResponseWriter` of HTTP/1.1 requests, except HEAD. uvicorn's `send` serves the others."""

    scope: Any

    def __init__(self, scope: Scope, protocol: HttpToolsProtocol, *, keep_alive: bool) -> None:
        super().__init__(
            scope=scope,  # type: ignore[arg-type]
            transport=protocol.transport,
            flow=protocol.flow,
            logger=protocol.logger,
            access_logger=protocol.access_logger,
            access_log=protocol.access_log,
            default_headers=protocol.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=protocol.expect_100_continue,
            keep_alive=keep_alive,
            on_response=protocol.on_response_complete,
        )
        self.status = 0
        self.extra_headers: HeaderPairs = ()
        self._head = b""
        """Waits for the first write."""
        self._body: bytes | None = None
        """A whole body that was not received yet."""
        self._frame: Callable[[bytes], bytes] = chunks
        self._writes = scope["http_version"] == "1.1" and scope["method"] != "HEAD"
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
        head = [STATUS_LINE[status]]
        chunked = status not in _BODYLESS
        for name, value in (*self.default_headers, *headers, *self.extra_headers):
            head.append(b"%b: %b\r\n" % (name, value))
            if name == b"content-length":
                chunked = False
        if not self.keep_alive:
            head.append(b"connection: close\r\n")
        head.append(b"transfer-encoding: chunked\r\n\r\n" if chunked else b"\r\n")
        self.chunked_encoding = chunked
        self._frame = line_chunks if _NDJSON in headers else chunks
        self._head = b"".join(head)

    def write(self, data: bytes, *, last: bool = False) -> bool:
        if self.disconnected or self.response_complete:
            return True
        if self.chunked_encoding:
            data = self._frame(data)
            if last:
                data += _LAST_CHUNK
        if self._head:
            data = self._head + data
            self._head = b""
        with suppress(*SEND_ERRORS):
            self.transport.write(data)
        if last:
            self._complete()
        return not self.flow.write_paused

    async def drained(self) -> None:
        if not self.disconnected:
            await self.flow.drain()

    def send(self, message: Message) -> Awaitable[None]:  # type: ignore[override]
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message["headers"] = [*message.get("headers", ()), *self.extra_headers]
            if self._writes and _NDJSON in headers:
                self._frame = line_chunks
        elif self._frame is line_chunks and self.response_started:
            return self._send_lines(message)
        return super().send(message)  # type: ignore[arg-type]

    async def _send_lines(self, message: Message) -> None:
        if self.flow.write_paused:
            await self.drained()
        self.write(message.get("body", b""), last=not message.get("more_body", False))

    def _complete(self) -> None:
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
