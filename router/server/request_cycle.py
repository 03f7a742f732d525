"""uvicorn's cycle of a request and its response, which also writes to the transport directly."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from vllama_pool.router.server.asgi import BODY, App, Message, Scope, request_headers
from vllama_pool.router.server.disconnect import DISCONNECT, DisconnectSignal
from vllama_pool.router.server.paced_lines import PacedLines, joins_chunks
from vllama_pool.router.server.writer import (
    LAST_CHUNK,
    NDJSON_TYPE,
    SEND_ERRORS,
    WRITER,
    ClientStalled,
    HeaderPairs,
    chunk,
    line_chunks,
    response_head,
)


class RequestCycle(DisconnectSignal, RequestResponseCycle):
    """Is the `ResponseWriter` of HTTP/1.1 requests, except HEAD. uvicorn's `send` serves the others.

    uvicorn's `__init__` is not called: attributes that few requests change are the class's.
    """

    scope: Any
    flow: Any
    task: asyncio.Task[None] | None = None
    """Runs `run_asgi`."""
    logger = logging.getLogger("uvicorn.error")
    access_log = False
    waiting_for_100_continue = False
    more_body = True
    response_started = response_complete = False
    expected_content_length = 0
    chunked_encoding: bool | None = None
    status = 0
    extra_headers: HeaderPairs = ()
    _event: asyncio.Event | None = None
    _head = b""
    """Waits for the first write."""
    _writes = _writes_lines = False
    _paced: PacedLines | None = None

    def __init__(self, scope: Scope, protocol: Any, *, keep_alive: bool, body: bytes | None = None) -> None:
        """`protocol`: the `ConnectionProtocol`. `body`: the whole body, None if it is incomplete."""
        self.scope = scope
        self.protocol = protocol
        self.transport = protocol.transport
        self.flow = protocol.flow
        self.keep_alive = keep_alive
        self.body = bytearray()
        self._body = body
        if body is not None:
            self.more_body = False
            scope[BODY] = self
        elif protocol.expect_100_continue:
            self.waiting_for_100_continue = True
        scope[DISCONNECT] = self
        if scope["method"] != "HEAD" and scope["http_version"] == "1.1":
            self._writes = True
            scope[WRITER] = self

    @property
    def message_event(self) -> asyncio.Event:  # type: ignore[override]
        """Set when `receive` or the connection has news. Few requests wait for it."""
        if self._event is None:
            self._event = asyncio.Event()
        return self._event

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:  # type: ignore[override]
        headers: list[tuple[bytes, bytes]] = self.protocol.server_state.default_headers
        return headers

    def on_response(self) -> None:
        self.protocol.on_response_complete()

    def end_at_half_close(self) -> None:
        self.ends_at_half_close = True
        self.protocol.close_if_half_closed()

    async def run_asgi(self, app: App) -> None:
        """Serve the request. Errors end it as in uvicorn. The task is forgotten without a callback."""
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as error:  # noqa: BLE001 - as in uvicorn
            await self._end_incomplete("Exception in ASGI application\n", error)
        else:
            if not (self.response_complete or self.disconnected or self.flow.gave_up):
                await self._end_incomplete("ASGI callable returned without completing response.")
        finally:
            self.protocol.tasks.discard(self.task)
            self.scope = self.protocol = self.task = None  # they refer to the cycle: no garbage to collect

    async def _end_incomplete(self, text: str, error: BaseException | None = None) -> None:
        self.logger.error(text, exc_info=error)
        if self.response_started:
            self.transport.close()
        else:
            await self.send_500_response()

    def take_body(self) -> bytes | None:
        """Of a `WholeBody`."""
        body, self._body = self._body, None
        return None if self.disconnected else body

    async def receive(self) -> Any:
        body = self.take_body()
        if body is None or self.response_complete:
            return await super().receive()
        return {"type": "http.request", "body": body, "more_body": False}

    def start(self, status: int, headers: HeaderPairs) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        self.status = status
        head, self.chunked_encoding, self._writes_lines = response_head(status, headers)
        for pair in (*self.protocol.server_state.default_headers, *self.extra_headers):
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
            if self.flow.gave_up:
                raise ClientStalled

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
            with suppress(ClientStalled):  # as for any other client that is gone
                await self.drained()

    def _complete(self) -> None:
        self.response_complete = True
        if self._event is not None:
            self._event.set()
        if not self.keep_alive:
            self.transport.close()
            self.protocol.watch_closing()
        self.protocol.on_response_complete()
