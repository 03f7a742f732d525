"""One connection to a worker, as an asyncio protocol with one exchange at a time."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import Protocol, cast

from vllama_pool.router.upstream.exchange import UpstreamExchange
from vllama_pool.router.upstream.interface import ConnectionLost, Endpoint

TAKEN_IN = 32 * 1024
"""Bytes of a request that the worker's kernel acknowledges even while the worker reads nothing."""
BUSY = 30.0
"""Seconds for which a larger request may stay unacknowledged, as a busy worker reads late."""
UNREACHABLE = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH})


class ConnectionOwner(Protocol):
    """Owns connections, and is notified of their state."""

    def freed(self, connection: UpstreamConnection) -> None:
        """The response is complete and the connection is reusable."""

    def gone(self, connection: UpstreamConnection) -> None:
        """The socket is closed.

        Owners count a connection once `create_connection` has returned it, not from `connection_made`: after a
        cancelled connect, uvloop may call `connection_made` without `connection_lost`.
        """


class UpstreamConnection(asyncio.Protocol):
    """A connection to one endpoint, with one request at a time."""

    def __init__(self, endpoint: Endpoint, owner: ConnectionOwner, patience: float) -> None:
        """`patience`: seconds within which the worker's host must acknowledge a request. Nothing else detects a host
        that vanished behind an open connection."""
        self.endpoint = endpoint
        self.unreachable = False
        """True if it was lost because the worker's host did not respond."""
        self.served = 0
        """Number of requests sent on it."""
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
        """True if closed or closing."""
        return self._transport is None or self._transport.is_closing()

    def begin(self, method: str, head: bytes, body: bytes) -> UpstreamExchange:
        """Write a request on an idle connection. The exchange owns the connection until its response has ended."""
        assert self._transport is not None
        assert self._exchange is None
        self.served += 1
        self._exchange = exchange = UpstreamExchange(self, method)
        self._allow(self._patience if len(head) + len(body) <= TAKEN_IN else BUSY)
        self._transport.writelines((head, body) if body else (head,))
        return exchange

    def release(self, *, reusable: bool) -> None:
        """End the exchange. Unless `reusable`, close the socket at once."""
        self._exchange = None
        transport = self._transport
        if transport is None:
            return
        # A worker may respond before it has read the whole request: the connection is then not reusable.
        if reusable and not transport.is_closing() and transport.get_write_buffer_size() == 0:
            self.read_on(True)
            self._owner.freed(self)
        else:
            transport.abort()

    def read_on(self, wanted: bool) -> None:
        """Resume or pause reading, so that the worker gets back-pressure."""
        transport = self._transport
        if wanted == self._reading or transport is None or transport.is_closing():
            return
        self._reading = wanted
        if wanted:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def abort(self) -> None:
        """Close the socket at once. An exchange in progress fails with ConnectionLost."""
        if self._exchange is not None:
            self._exchange.fail(ConnectionLost("closed by this side"))
        if self._transport is not None:
            self._transport.abort()

    def _allow(self, seconds: float) -> None:
        """Set the kernel's limit on unacknowledged data (TCP_USER_TIMEOUT, Linux only)."""
        if seconds == self._allowed or self._transport is None or not hasattr(socket, "TCP_USER_TIMEOUT"):
            return
        self._allowed = seconds
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(seconds * 1000)))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._exchange is not None:
            self._exchange.received(data)
        elif self._transport is not None:
            self._transport.abort()  # unsolicited bytes would be read as the next response

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
    """True if TLS ended without close_notify, so that the stream may have been truncated on the way.

    asyncio does not distinguish the two; OpenSSL returns b"" only after close_notify.
    """
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    if tls is None:
        return False
    try:
        return tls.read(1) != b""
    except ssl.SSLError:
        return True
