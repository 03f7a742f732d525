"""One request and its response on a connection: the object that the client returns."""

from __future__ import annotations

import asyncio
from typing import Protocol

from vllama_pool.router.upstream.expiry import Expiry
from vllama_pool.router.upstream.http1 import NO_HEADERS, ResponseParser, UsualHeads
from vllama_pool.router.upstream.interface import ConnectionLost, Endpoint, Sink, TransportError

FINISH_TIMEOUT = 0.1
"""Seconds for the end of a response that `finish` discards, such as its terminating chunk."""


class ExchangeTransport(Protocol):
    """The connection, as an exchange sees it."""

    def release(self, *, reusable: bool) -> None:
        """End the exchange. Unless `reusable`, close the socket at once."""

    def set_reading(self, enabled: bool) -> None:
        """Resume or pause reading, so that the worker gets back-pressure."""


class ExchangeOwner(Protocol):
    """The client, as an exchange sees it."""

    finishing: Expiry[UpstreamExchange]
    """Exchanges that wait for the end of their response, which nobody reads."""
    usual_heads: UsualHeads

    def connect(self, exchange: UpstreamExchange) -> asyncio.Task[None]:
        """Open a connection and write the request on it."""


class UpstreamExchange:
    """`interface.Exchange`. Releases its connection as soon as the response has ended, before its sink is called."""

    __slots__ = (
        *("_connecting", "_connection", "_ended", "_loop", "_owner", "_parser", "_paused", "_replayed", "_sink"),
        *("body", "connect_timeout", "endpoint", "head", "last_heard"),
    )

    def __init__(
        self,
        endpoint: Endpoint,
        method: str,
        head: bytes,
        body: bytes,
        sink: Sink,
        owner: ExchangeOwner,
        connect_timeout: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.endpoint = endpoint
        self.head, self.body = head, body
        """Of the request. Empty once the response has begun."""
        self.connect_timeout = connect_timeout
        self.last_heard = loop.time()
        self._sink: Sink | None = sink
        self._owner = owner
        self._loop = loop
        self._parser = ResponseParser(method, owner.usual_heads)
        self._connecting: asyncio.Task[None] | None = None
        self._connection: ExchangeTransport | None = None
        self._replayed = self._paused = False
        self._ended = False  # nothing more will arrive

    def __repr__(self) -> str:
        return f"<UpstreamExchange {self._parser.status or 'no head'}, {'ended' if self._ended else 'open'}>"

    def pause(self) -> None:
        self._set_paused(True)

    def resume(self) -> None:
        self._set_paused(False)

    def fail(self, error: TransportError) -> None:
        if not self._ended:
            self._end()
            self._notify_end(error)

    def finish(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None and not self._ended:
            self._owner.finishing.add(self, self._loop)
            if self._paused:
                self.resume()

    def close(self) -> None:
        self._sink = None
        if not self._ended:
            self._end()

    # called by the client

    def connect(self) -> None:
        """Send the request on a new connection."""
        self._connecting = self._owner.connect(self)

    def connect_failed(self, error: TransportError) -> None:
        """No connection was made. A worker that had the request before has died with it, as far as anybody can know."""
        self.fail(ConnectionLost(f"the connection was lost, then {error}") if self._replayed else error)

    # called by the connection

    def begin(self, connection: ExchangeTransport) -> None:
        self._connection = connection
        if self._connecting is not None:
            self._connecting = None
            self.last_heard = self._loop.time()
        if self._paused:
            connection.set_reading(False)

    def data_received(self, data: bytes) -> None:
        self.last_heard = self._loop.time()
        parser = self._parser
        body = parser.feed(data)
        over = parser.over
        # Release the connection first: the reader of the end may reuse it for the next request.
        if over:
            self._end(reusable=parser.complete and parser.keep_alive and not parser.extra)
        sink = self._sink
        if sink is None:
            return
        try:
            if self.head and parser.status:
                self._push_head(sink)
                if self._sink is None:
                    return
            if body:
                sink.data(body)
        except Exception:
            self._lose(sink)
            raise
        if over:
            self._notify_end(parser.error)

    def _push_head(self, sink: Sink) -> None:
        self.head = self.body = b""
        parser = self._parser
        headers, parser.headers = parser.headers, NO_HEADERS
        sink.head(parser.status, headers)

    def eof_received(self, *, truncated: bool, replayable: bool = False) -> None:
        if self._parser.started and not truncated and self._parser.eof():
            self._end()
            self._notify_end()
        else:
            lost = ConnectionLost("the worker closed the connection before the response was complete")
            self.connection_lost(lost, replayable=replayable)

    def connection_lost(self, error: TransportError, *, replayable: bool = False) -> None:
        """`replayable`: the worker may have closed the connection before the request."""
        if self._ended:
            return
        if replayable and not self._replayed and not self._parser.started:
            self._replayed = True
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.release(reusable=False)
            self.connect()
        else:
            self.fail(error)

    def _end(self, *, reusable: bool = False) -> None:
        self._ended = True
        self._parser.stop()
        if self._sink is None:
            self._owner.finishing.discard(self)
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release(reusable=reusable)

    def _notify_end(self, error: TransportError | None = None) -> None:
        sink, self._sink = self._sink, None
        if sink is None:
            return
        if error is not None:
            sink.lost(error)
            return
        try:
            sink.eof()
        except Exception:
            self._lose(sink)
            raise

    def _lose(self, sink: Sink) -> None:
        """End the response for a sink that raised: its owner must not wait for an end that it did not get."""
        lost = ConnectionLost("the response could not be processed")
        self._sink = None
        if not self._ended:
            self._end()
        sink.lost(lost)

    def _set_paused(self, paused: bool) -> None:
        self._paused = paused
        if self._connection is not None:
            self._connection.set_reading(not paused)
