"""The limits of a client's connection: how many there may be, and how far behind its reader may stay."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress

from vllama_pool.router.server.connection_lifetime import ConnectionProtocol
from vllama_pool.router.server.connection_limits import CONNECTIONS, ConnectionLimits, ConnectionRefusal
from vllama_pool.router.server.kernel_buffers import descriptor, unacknowledged
from vllama_pool.router.server.refusal import ON_REFUSAL, Refusal, too_many, unread
from vllama_pool.router.server.refused_connection import MAX_WAITING, RefusedConnection
from vllama_pool.router.server.slow_readers import SLOW_READERS, SlowReaders


class GuardedProtocol(ConnectionProtocol):
    """Hands a connection beyond the limits to `RefusedConnection`, and reports a client that is behind."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        limits: ConnectionLimits | None = self.app_state.get(CONNECTIONS)
        if limits is not None:
            refusal = limits.admit(self._address, descriptor(transport))
            if refusal is not None:
                self._hand_over(refusal, limits)

    def connection_lost(self, exc: Exception | None) -> None:
        limits: ConnectionLimits | None = self.app_state.get(CONNECTIONS)
        if limits is not None:
            limits.leave(self._address)
        self._set_behind(behind=False)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._set_behind(behind=True)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._set_behind(behind=self.transport.is_closing())

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.watch_closing()

    def watch_closing(self) -> None:
        """A connection that closes stays open until its client has read the rest."""
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._set_behind(behind=True)

    def unsent(self) -> int:
        """As in `slow_readers.Behind`."""
        return int(self.transport.get_write_buffer_size()) + unacknowledged(self.transport)

    def drop_unread(self, text: str) -> None:
        """As in `slow_readers.Behind`. The owner of a response learns it from its `drained`."""
        self._report(unread(self._address, text))
        self.flow.give_up()
        _reset_at_close(self.transport)
        self.transport.abort()

    @property
    def _address(self) -> str:
        """Of the client; "" on a Unix socket."""
        return str(self.client[0]) if self.client else ""

    def _hand_over(self, refusal: ConnectionRefusal, limits: ConnectionLimits) -> None:
        """Leave the connection to a protocol that answers its first request."""
        self._report(too_many(refusal.reason))
        self.connections.discard(self)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        waits = limits.refused < MAX_WAITING
        limits.refused += 1
        transport = self.transport
        transport.set_protocol(RefusedConnection(transport, refusal.text, limits.refused_ended, waits=waits))

    def _set_behind(self, *, behind: bool) -> None:
        readers: SlowReaders | None = self.app_state.get(SLOW_READERS)
        if readers is not None:
            (readers.watch if behind else readers.unwatch)(self)

    def _report(self, refusal: Refusal) -> None:
        if on_refusal := self.app_state.get(ON_REFUSAL):
            on_refusal(refusal)


def _reset_at_close(transport: asyncio.BaseTransport) -> None:
    """Let the kernel discard what it has not sent. Otherwise it keeps that, up to megabytes, until the client reads."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return
    with suppress(OSError):  # closed
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
