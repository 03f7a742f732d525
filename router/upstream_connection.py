"""One connection to a worker, and one exchange on it: the push half of the upstream client.

`Connection` is the event loop's protocol; it lives as long as its socket. `Exchange` is one request and its
response, and what the caller holds. The two let go of each other as soon as the response has ended (complete
or not), so that a connection can serve its next request while the last body is still being read from memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol, cast

from router.transport import ConnectionLost, Endpoint, ResponseTimeout, Sink, TransportError
from router.upstream_wire import ResponseParser

HIGH_WATER = 256 * 1024
"""Body bytes held for a caller that pulls before reading from the worker is paused."""


class Owner(Protocol):
    """Keeps connections; told of their fate."""

    def opened(self, connection: Connection) -> None:
        """The connection is established."""

    def freed(self, connection: Connection) -> None:
        """Its response is complete and it may serve another request."""

    def gone(self, connection: Connection) -> None:
        """Its socket is closed. Called once after `opened`."""


class Connection(asyncio.Protocol):
    """A connection to one endpoint, for one request at a time."""

    def __init__(self, endpoint: Endpoint, owner: Owner) -> None:
        self.endpoint = endpoint
        self.served = 0
        """Requests begun on it."""
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._reading = True

    def __repr__(self) -> str:
        state = "closed" if self.closed else "idle" if self._exchange is None else "in use"
        return f"<Connection {self.endpoint.host}:{self.endpoint.port} {state}, {self.served} requests>"

    @property
    def closed(self) -> bool:
        """Closed, or about to be."""
        return self._transport is None or self._transport.is_closing()

    def begin(self, method: str, head: bytes, body: bytes) -> Exchange:
        """Write a request. The exchange owns the connection until its response has ended."""
        assert self._transport is not None
        assert self._exchange is None
        self.served += 1
        self._exchange = exchange = Exchange(self, method)
        self._transport.writelines((head, body) if body else (head,))
        return exchange

    def release(self, *, reusable: bool) -> None:
        """The exchange is over. Without `reusable` the socket is closed at once."""
        self._exchange = None
        transport = self._transport
        if transport is None:
            return
        # A worker may answer before it has read the whole request; nobody knows what it would do with the rest.
        if reusable and not transport.is_closing() and transport.get_write_buffer_size() == 0:
            self.read_on(True)
            self._owner.freed(self)
        else:
            transport.abort()

    def read_on(self, wanted: bool) -> None:
        """Read from the worker, or leave its bytes in the kernel so that it stops sending."""
        transport = self._transport
        if wanted == self._reading or transport is None or transport.is_closing():
            return
        self._reading = wanted
        if wanted:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def abort(self) -> None:
        """Close the socket at once; an exchange in progress fails with ConnectionLost."""
        if self._exchange is not None:
            self._exchange.fail(ConnectionLost("closed by this side"))
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._exchange is not None:
            self._exchange.received(data)
        elif self._transport is not None:
            self._transport.abort()  # nobody asked: what follows could be taken for the next answer

    def eof_received(self) -> None:
        if self._exchange is not None:
            self._exchange.eof()
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._owner.gone(self)
        if self._exchange is not None:
            self._exchange.fail(ConnectionLost(f"the connection to the worker was lost: {exc or 'closed'}"))


class Exchange:
    """One request and its response: `router.transport.Response`, once `head` has returned."""

    def __init__(self, connection: Connection, method: str) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self._connection: Connection | None = connection
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
        return f"<Exchange {self.status or 'no head'}, {state}, {self._buffered} bytes held>"

    @property
    def untouched(self) -> bool:
        """No byte of a response has arrived."""
        return not self._parser.started

    async def head(self, timeout: float | None) -> None:
        """Wait for the response head. Cancelled or timed out, it closes the connection."""
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
        """The next body bytes, all that have arrived; b"" at the end. Cancelled, it closes the connection."""
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
        """Bytes that were read before, and the end if it was among them, are still pushed."""
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

    # What the connection calls.

    def received(self, data: bytes) -> None:
        parser = self._parser
        body = parser.feed(data)
        # The connection is settled before anyone hears of the end, who may want it for the next request.
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

    def eof(self) -> None:
        """The worker closed its side: the end of a body that has no other, else a loss."""
        if self._parser.eof():
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
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release(reusable=reusable)

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
        elif not self._closed:
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
        if self._connection is not None:
            self._connection.read_on(not self._held and self._buffered <= HIGH_WATER)

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
