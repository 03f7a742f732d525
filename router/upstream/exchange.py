"""One request and its response on a connection: the object that the client returns."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from vllama_pool.router.upstream.http1 import ResponseParser
from vllama_pool.router.upstream.interface import ConnectionLost, ResponseTimeout, Sink, TransportError

HIGH_WATER = 256 * 1024
"""Buffered body bytes from which reading from the worker pauses."""


class ExchangeTransport(Protocol):
    """The connection under an exchange."""

    def release(self, *, reusable: bool) -> None:
        """End the exchange. Unless `reusable`, close the socket at once."""

    def read_on(self, wanted: bool) -> None:
        """Resume or pause reading, so that the worker gets back-pressure."""


class UpstreamExchange:
    """`interface.Response`, once `head` has returned.

    It releases its connection as soon as the response has ended, so that the connection can serve the next request
    while this body is read from memory.
    """

    def __init__(self, line: ExchangeTransport, method: str) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self._line: ExchangeTransport | None = line
        self._parser = ResponseParser(method)
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._sink: Sink | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False  # nothing more will arrive: complete, or failed with _error
        self._error: TransportError | None = None
        self._held = False  # the owner asked not to read on
        self._closed = False

    def __repr__(self) -> str:
        state = "ended" if self._ended else "open"
        return f"<UpstreamExchange {self.status or 'no head'}, {state}, {self._buffered} bytes held>"

    @property
    def untouched(self) -> bool:
        """True until the first byte of the response arrives."""
        return not self._parser.started

    async def head(self, timeout: float | None) -> None:
        """Wait for the response head. Closes the connection if cancelled or timed out."""
        timer = None
        if timeout is not None:
            timer = asyncio.get_running_loop().call_later(timeout, self._head_is_late, timeout)
        try:
            while not self.status and self._error is None:
                await self._wait()
        finally:
            if timer is not None:
                timer.cancel()
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
        data = self._take()
        self._flow()
        return data

    def attach(self, sink: Sink) -> None:
        if self._sink is not None or self._waiter is not None:
            raise RuntimeError("the body is being read already")
        if self._closed:
            return
        self._sink = sink
        if self._buffer:
            sink.data(self._take())
        if self._ended:
            self._announce_end()
        else:
            self._flow()

    def pause(self) -> None:
        """Pause reading. Bytes that were read before, and the end among them, are still pushed."""
        self._held = True
        self._flow()

    def resume(self) -> None:
        self._held = False
        self._flow()

    def close(self) -> None:
        self._closed = True
        self._sink = None
        self._buffer.clear()
        self._buffered = 0
        if not self._ended:
            self.fail(ConnectionLost("closed by this side"))

    # called by the connection

    def received(self, data: bytes) -> None:
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
            self._announce_end()

    def eof(self, *, truncated: bool) -> None:
        """The worker closed its side: the end of a body without length, else a loss."""
        if not truncated and self._parser.eof():
            self._end(None)
            self._announce_end()
        else:
            self.fail(ConnectionLost("the worker closed the connection before the response was complete"))

    def fail(self, error: TransportError) -> None:
        if not self._ended:
            self._end(error)
            self._announce_end()

    def _head_is_late(self, timeout: float) -> None:
        if not self.status:
            self.fail(ResponseTimeout(f"no response head within {timeout:g} s"))

    def _end(self, error: TransportError | None, *, reusable: bool = False) -> None:
        self._ended = True
        self._error = error
        self._parser.stop()
        line, self._line = self._line, None
        if line is not None:
            line.release(reusable=reusable)

    def _announce_end(self) -> None:
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
            self._flow()
            self._wake()

    def _take(self) -> bytes:
        data = self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)
        self._buffer.clear()
        self._buffered = 0
        return data

    def _flow(self) -> None:
        if self._line is not None:
            self._line.read_on(not self._held and self._buffered <= HIGH_WATER)

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
