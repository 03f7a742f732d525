"""One connection to a worker: the event loop's protocol, for one exchange at a time."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import Protocol, cast

from vllama_pool.router.upstream.exchange import UpstreamExchange
from vllama_pool.router.upstream.interface import ConnectionLost, Endpoint

TAKEN_IN = 32 * 1024
"""Bytes of a request that the worker's kernel takes in, and acknowledges, even while the worker reads nothing."""
BUSY = 30.0
"""Seconds that a larger request may make no way: it waits for the worker itself, which may be busy."""
UNREACHABLE = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH})


class ConnectionOwner(Protocol):
    """Keeps connections; told of their fate."""

    def freed(self, connection: UpstreamConnection) -> None:
        """Its response is complete and it may serve another request."""

    def gone(self, connection: UpstreamConnection) -> None:
        """Its socket is closed.

        Owners count a connection from when the event loop has handed it over, not from `connection_made`:
        where its making is cancelled, uvloop can announce it all the same and never report its end.
        """


class UpstreamConnection(asyncio.Protocol):
    """A connection to one endpoint, for one request at a time."""

    def __init__(self, endpoint: Endpoint, owner: ConnectionOwner, patience: float) -> None:
        """`patience`: seconds within which the worker's machine must acknowledge a request. A machine that has
        gone cannot refuse one, and on a connection that is made already nothing else would tell."""
        self.endpoint = endpoint
        self.unreachable = False
        """It was lost because nothing at all came from the worker's machine."""
        self.served = 0
        """Requests begun on it."""
        self._owner = owner
        self._patience = patience
        self._allowed: float | None = None
        self._transport: asyncio.Transport | None = None
        self._exchange: UpstreamExchange | None = None
        self._reading = True

    def __repr__(self) -> str:
        state = "closed" if self.closed else "idle" if self._exchange is None else "in use"
        return f"<UpstreamConnection {self.endpoint.host}:{self.endpoint.port} {state}, {self.served} requests>"

    @property
    def closed(self) -> bool:
        """Closed, or about to be."""
        return self._transport is None or self._transport.is_closing()

    def begin(self, method: str, head: bytes, body: bytes) -> UpstreamExchange:
        """Write a request, on a connection that is idle and not closed. The exchange owns the connection until
        its response has ended."""
        assert self._transport is not None
        assert self._exchange is None
        self.served += 1
        self._exchange = exchange = UpstreamExchange(self, method)
        self._allow(self._patience if len(head) + len(body) <= TAKEN_IN else BUSY)
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

    def _allow(self, seconds: float) -> None:
        """Have the kernel give the connection up when what was sent stays unacknowledged for so long (Linux)."""
        if seconds == self._allowed or self._transport is None or not hasattr(socket, "TCP_USER_TIMEOUT"):
            return
        self._allowed = seconds
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(seconds * 1000)))

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._exchange is not None:
            self._exchange.received(data)
        elif self._transport is not None:
            self._transport.abort()  # nobody asked: what follows could be taken for the next answer

    def eof_received(self) -> None:
        if self._exchange is not None:
            self._exchange.eof(truncated=self._transport is not None and _truncated(self._transport))
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.unreachable = isinstance(exc, OSError) and exc.errno in UNREACHABLE
        self._owner.gone(self)
        if self._exchange is not None:
            self._exchange.fail(ConnectionLost(f"the connection to the worker was lost: {exc or 'closed'}"))


def _truncated(transport: asyncio.Transport) -> bool:
    """Whether TLS ended without its closing alert, so that anybody on the way may have cut the stream off.

    asyncio reports both ends alike; OpenSSL answers b"" only after the alert.
    """
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    if tls is None:
        return False
    try:
        return tls.read(1) != b""
    except ssl.SSLError:
        return True
