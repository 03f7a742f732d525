"""HTTP/1.1 on asyncio and httptools, which behaves like uvicorn. One event is one chunk."""

from __future__ import annotations

import asyncio
import functools
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from socket import SO_LINGER, SOL_SOCKET
from typing import Protocol, cast

import httptools

from vllama_pool.workers.simulated.errors import HttpResponse

SERVER = b"vllama-simulated"
EVENT_STREAM = "text/event-stream; charset=utf-8"
MAX_PIPELINED = 8
"""Pipelined requests before reading pauses."""

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_BAD_REQUEST = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n\r\n"
    b"Invalid HTTP request received."
)


@dataclass(slots=True)
class Request:
    method: str
    path: str
    query: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    keep_alive: bool = True
    chunks: list[bytes] = field(default_factory=list, repr=False)


class Service(Protocol):
    keep_alive: float
    """Seconds for an idle connection."""
    connections: set[Connection]

    @property
    def frozen(self) -> bool: ...

    def handle(self, request: Request, exchange: Exchange) -> None:
        """Respond now or later. Must not raise."""


class Exchange:
    """One request and its response. Ignores writes after its end or a disconnect."""

    __slots__ = (
        "_bodiless",
        "_buffer",
        "_connection",
        "ended",
        "garbled",
        "on_disconnect",
        "on_resume",
        "split",
        "started",
    )

    def __init__(self, connection: Connection, *, bodiless: bool = False) -> None:
        self._bodiless = bodiless
        self._connection = connection
        self._buffer: list[bytes] = []
        self.started = False
        self.ended = False
        self.split = False
        self.garbled: bytes | None = None
        """Replaces the next write."""
        self.on_disconnect: Callable[[], None] | None = None
        """Called if the client disconnects before the end."""
        self.on_resume: Callable[[], None] | None = None

    @property
    def blocked(self) -> bool:
        return self._connection.paused

    def respond(self, answer: HttpResponse) -> None:
        if self.started or self.ended:
            return
        self.started = True
        headers = (*answer.headers, ("content-length", str(len(answer.body))))
        if answer.body:
            headers += (("content-type", answer.content_type),)
        body = b"" if self._bodiless else answer.body
        self._write(self._connection.head(answer.status, headers) + body)
        self._finish()

    def begin(self) -> None:
        if self.started or self.ended:
            return
        self.started = True
        headers = (("content-type", EVENT_STREAM), ("transfer-encoding", "chunked"))
        self._write(self._connection.head(200, headers))

    def event(self, data: bytes) -> None:
        """Buffer an event until `flush`."""
        self._buffer.append(b"%x\r\n%b\r\n" % (len(data), data))

    def flush(self) -> None:
        if self._buffer:
            held = self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)
            self._buffer.clear()
            if not self.ended:
                self._write(held)

    def end(self) -> None:
        if self.ended:
            return
        self._buffer.append(b"0\r\n\r\n")
        self.flush()
        self._finish()

    def close(self, *, reset: bool = False) -> None:
        """Close with FIN or RST."""
        self.flush()
        self.ended = True
        self._connection.close(reset=reset)

    def disconnect(self) -> None:
        if not self.ended:
            self.ended = True
            if self.on_disconnect is not None:
                self.on_disconnect()

    def _write(self, data: bytes) -> None:
        if self.garbled is not None:
            data, self.garbled = self.garbled, None
        if self.split:
            self._connection.write_split(data)
        else:
            self._connection.write(data)

    def _finish(self) -> None:
        self.ended = True
        self._connection.next()


class Connection(asyncio.Protocol):
    def __init__(self, service: Service) -> None:
        self._service = service
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._request: Request | None = None
        self._url = b""
        self._waiting: deque[Request] = deque()
        self._exchange: Exchange | None = None
        self._close = False
        self._idle: asyncio.TimerHandle | None = None
        self._unread: list[bytes] = []
        self._split: deque[int] = deque()
        self._split_then: Callable[[], None] | None = None
        self.paused = False

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # not an asyncio.Transport by class on uvloop
        self._service.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._service.frozen:
            self._unread.append(data)
            return
        self._stop_idle()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError:
            self.write(_BAD_REQUEST)
            self.close()

    def eof_received(self) -> None:
        """Close, as uvicorn does."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._service.connections.discard(self)
        self._stop_idle()
        self._transport = None
        self._waiting.clear()
        if self._exchange is not None:
            self._exchange.disconnect()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self._exchange is not None and self._exchange.on_resume is not None:
            self._exchange.on_resume()

    # --- httptools ---

    def on_message_begin(self) -> None:
        self._url = b""
        self._request = Request("", "", "", {}, b"")

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        assert self._request is not None
        self._request.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        request = self._request
        assert request is not None
        request.method = self._parser.get_method().decode("ascii")
        request.keep_alive = self._parser.should_keep_alive()
        path, _, query = self._url.decode("latin-1").partition("?")
        request.path, request.query = path, query
        if request.headers.get("expect", "").lower() == "100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        assert self._request is not None
        self._request.chunks.append(data)

    def on_message_complete(self) -> None:
        request = self._request
        assert request is not None
        request.body = b"".join(request.chunks)
        self._waiting.append(request)
        if len(self._waiting) >= MAX_PIPELINED and self._transport is not None:
            self._transport.pause_reading()
        if self._exchange is None:
            self._answer()

    # --- answering ---

    def head(self, status: int, headers: tuple[tuple[str, str], ...]) -> bytes:
        lines = [
            b"HTTP/1.1 %d %b\r\ndate: %b\r\nserver: %b\r\n"
            % (status, _REASONS.get(status, "Unknown").encode(), _date(int(time.time())), SERVER)
        ]
        lines += [f"{name}: {value}\r\n".encode("latin-1") for name, value in headers]
        if self._close:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def write_split(self, data: bytes) -> None:
        """Send each byte in its own turn of the loop."""
        running = bool(self._split)
        self._split.extend(data)
        if not running:
            self._write_byte()

    def next(self) -> None:
        if self._split:
            self._split_then = self.next
            return
        self._exchange = None
        if self._transport is None:
            return
        if self._close:
            self._transport.close()
        elif self._waiting:
            self._transport.resume_reading()
            self._answer()
        else:
            self._start_idle()

    def close(self, *, reset: bool = False) -> None:
        if self._transport is None:
            return
        if not reset:
            self._transport.close()
            return
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def thaw(self) -> None:
        unread, self._unread = self._unread, []
        for data in unread:
            if self._transport is not None:
                self.data_received(data)

    def close_if_idle(self) -> None:
        if self._service.frozen:
            self._start_idle()
        elif self._exchange is None and self._transport is not None:
            self._transport.close()

    def _answer(self) -> None:
        request = self._waiting.popleft()
        self._close = not request.keep_alive
        self._exchange = Exchange(self, bodiless=request.method == "HEAD")
        self._service.handle(request, self._exchange)

    def _write_byte(self) -> None:
        if self._split and self._transport is not None:
            self.write(bytes((self._split.popleft(),)))
            asyncio.get_running_loop().call_soon(self._write_byte)
        elif self._split_then is not None:
            then, self._split_then = self._split_then, None
            then()

    def _start_idle(self) -> None:
        self._stop_idle()
        if self._service.keep_alive > 0:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self._service.keep_alive, self.close_if_idle)

    def _stop_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None


@functools.lru_cache(maxsize=2)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
