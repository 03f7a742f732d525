"""One request and its response on a connection: the object that the client returns."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from vllama_pool.router.upstream.http1 import ResponseParser
from vllama_pool.router.upstream.interface import ConnectionLost, Sink, TransportError

HIGH_WATER = 256 * 1024
"""Buffered body bytes from which reading from the worker pauses."""


class ExchangeTransport(Protocol):
    """The connection, as an exchange sees it."""

    def release(self, *, reusable: bool) -> None:
        """End the exchange. Unless `reusable`, close the socket at once."""

    def set_reading(self, enabled: bool) -> None:
        """Resume or pause reading, so that the worker gets back-pressure."""


class UpstreamExchange:
    """`interface.Response`, once `head` has returned.

    It releases its connection as soon as the response has ended, even if the body is still buffered.
    """

    def __init__(self, connection: ExchangeTransport, method: str) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self._connection: ExchangeTransport | None = connection
        self._parser = ResponseParser(method)
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._sink: Sink | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False  # nothing more will arrive: complete, or failed with _error
        self._error: TransportError | None = None
        self._paused = False  # by the owner
        self._closed = False

    def __repr__(self) -> str:
        state = "ended" if self._ended else "open"
        return f"<UpstreamExchange {self.status or 'no head'}, {state}, {self._buffered} bytes buffered>"

    @property
    def started(self) -> bool:
        """True once any byte of the response has arrived."""
        return self._parser.started

    async def head(self) -> None:
        """Wait for the response head. Closes the connection if cancelled. Raises TransportError."""
        while not self.status and self._error is None:
            await self._wait()
        if not self.status and self._error is not None:
            raise self._error

    async def read(self) -> bytes:
        """Return all body bytes that have arrived; b"" at the end. Closes the connection if cancelled."""
        if self._sink is not None or self._waiter is not None:
            raise RuntimeError("the body is being read already")
        while not self._buffer:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            await self._wait()
        data = self._drain_buffer()
        self._update_reading()
        return data

    def attach(self, sink: Sink) -> None:
        if self._sink is not None or self._waiter is not None:
            raise RuntimeError("the body is being read already")
        if self._closed:
            return
        self._sink = sink
        if self._buffer:
            sink.data(self._drain_buffer())
        if self._ended:
            self._notify_end()
        else:
            self._update_reading()

    def pause(self) -> None:
        """Pause reading. Bytes that were read before are still pushed."""
        self._paused = True
        self._update_reading()

    def resume(self) -> None:
        self._paused = False
        self._update_reading()

    def close(self) -> None:
        self._closed = True
        self._sink = None
        self._buffer.clear()
        self._buffered = 0
        if not self._ended:
            self.fail(ConnectionLost("closed by this side"))

    # called by the connection

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        body = parser.feed(data)
        # Release the connection first: the reader of the end may reuse it for the next request.
        if parser.complete:
            self._end(None, reusable=parser.keep_alive and not parser.extra)
        elif parser.error is not None:
            self._end(parser.error)
        if not self.status and parser.status:
            self.status, self.headers = parser.status, parser.headers
            self._wake()
        if body:
            self._deliver(body)
        if self._ended:
            self._notify_end()

    def eof_received(self, *, truncated: bool) -> None:
        if not truncated and self._parser.eof():
            self._end(None)
            self._notify_end()
        else:
            self.fail(ConnectionLost("the worker closed the connection before the response was complete"))

    def fail(self, error: TransportError) -> None:
        if not self._ended:
            self._end(error)
            self._notify_end()

    def _end(self, error: TransportError | None, *, reusable: bool = False) -> None:
        self._ended = True
        self._error = error
        self._parser.stop()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release(reusable=reusable)

    def _notify_end(self) -> None:
        self._wake()
        sink, self._sink = self._sink, None
        if sink is None:
            return
        if self._error is None:
            sink.eof()
        else:
            sink.lost(self._error)

    def _deliver(self, body: bytes) -> None:
        if self._sink is not None:
            self._sink.data(body)
        else:
            self._buffer.append(body)
            self._buffered += len(body)
            self._update_reading()
            self._wake()

    def _drain_buffer(self) -> bytes:
        data = self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)
        self._buffer.clear()
        self._buffered = 0
        return data

    def _update_reading(self) -> None:
        if self._connection is not None:
            self._connection.set_reading(not self._paused and self._buffered <= HIGH_WATER)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._waiter = None
