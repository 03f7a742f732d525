"""A connection to a worker, as an asyncio protocol."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import Protocol, cast

from vllama_pool.router.upstream.exchange import UpstreamExchange
from vllama_pool.router.upstream.interface import ConnectionLost, Endpoint

MAX_KERNEL_BUFFERED = 32 * 1024
"""Bytes of a request that the worker's kernel acknowledges even while the worker reads nothing."""
LARGE_REQUEST_ACK_TIMEOUT = 30.0
"""Seconds for which a larger request may stay unacknowledged, as a busy worker reads late."""
UNREACHABLE_ERRNOS = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH})


class ConnectionOwner(Protocol):
    """The pool, as a connection sees it."""

    def release(self, connection: UpstreamConnection) -> None:
        """The response is complete and the connection is reusable."""

    def remove(self, connection: UpstreamConnection) -> None:
        """The socket is closed.

        Owners count a connection once `create_connection` has returned it, not from `connection_made`: after a
        cancelled connect, uvloop may call `connection_made` without `connection_lost`.
        """


class UpstreamConnection(asyncio.Protocol):
    """A connection to one endpoint, with one request at a time."""

    __slots__ = (
        *("_ack_timeout", "_exchange", "_owner", "_reading", "_transport", "_user_timeout"),
        *("endpoint", "requests", "unreachable"),
    )

    def __init__(self, endpoint: Endpoint, owner: ConnectionOwner, ack_timeout: float) -> None:
        """`ack_timeout`: seconds within which the worker's host must acknowledge a request. Nothing else detects a host
        that vanished behind an open connection."""
        self.endpoint = endpoint
        self.unreachable = False
        """True if the worker's host did not respond."""
        self.requests = 0
        self._owner = owner
        self._ack_timeout = ack_timeout
        self._user_timeout: float | None = None
        self._transport: asyncio.Transport | None = None
        self._exchange: UpstreamExchange | None = None
        self._reading = True

    def __repr__(self) -> str:
        state = "closed" if self.closed else "idle" if self._exchange is None else "in use"
        return f"<UpstreamConnection {self.endpoint.host}:{self.endpoint.port} {state}, {self.requests} requests>"

    @property
    def closed(self) -> bool:
        """True if closed or closing."""
        return self._transport is None or self._transport.is_closing()

    def begin(self, exchange: UpstreamExchange) -> None:
        """Write a request on an idle connection, which the exchange owns until its response has ended."""
        transport = self._transport
        assert transport is not None
        assert self._exchange is None
        self.requests += 1
        self._exchange = exchange
        exchange.begin(self)
        head, body = exchange.head, exchange.body
        small = len(head) + len(body) <= MAX_KERNEL_BUFFERED
        seconds = self._ack_timeout if small else LARGE_REQUEST_ACK_TIMEOUT
        if seconds != self._user_timeout:
            self._set_user_timeout(transport, seconds)
        if small:
            transport.write(head + body)  # costs less than two buffers
        else:
            transport.writelines((head, body))

    def release(self, *, reusable: bool) -> None:
        self._exchange = None
        transport = self._transport
        if transport is None:
            return
        # A worker may respond before it has read the whole request: the connection is then not reusable.
        if reusable and not transport.is_closing() and transport.get_write_buffer_size() == 0:
            if not self._reading:
                self.set_reading(True)
            self._owner.release(self)
        else:
            transport.abort()

    @property
    def _was_idle(self) -> bool:
        """True if the worker may have closed the connection before the present request."""
        return self.requests > 1

    def set_reading(self, enabled: bool) -> None:
        transport = self._transport
        if enabled == self._reading or transport is None or transport.is_closing():
            return
        self._reading = enabled
        if enabled:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def abort(self) -> None:
        """Close the socket at once. An exchange in progress fails."""
        if self._exchange is not None:
            self._exchange.fail(ConnectionLost("closed by this side"))
        if self._transport is not None:
            self._transport.abort()

    def _set_user_timeout(self, transport: asyncio.Transport, seconds: float) -> None:
        """Limit how long sent data may stay unacknowledged (TCP_USER_TIMEOUT, Linux only)."""
        self._user_timeout = seconds
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(seconds * 1000)))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is not None:
            exchange.data_received(data)
        elif self._transport is not None:
            self._transport.abort()  # unsolicited bytes would be read as the next response

    def eof_received(self) -> None:
        if self._exchange is not None:
            truncated = self._transport is not None and _truncated(self._transport)
            self._exchange.eof_received(truncated=truncated, replayable=self._was_idle)
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.unreachable = isinstance(exc, OSError) and exc.errno in UNREACHABLE_ERRNOS
        self._owner.remove(self)
        if self._exchange is not None:
            lost = ConnectionLost(f"the connection to the worker was lost: {exc or 'closed'}")
            self._exchange.connection_lost(lost, replayable=self._was_idle and not self.unreachable)


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
