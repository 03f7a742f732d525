"""The life of a client's connection: idle, pipelined, half-closed and lost."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from vllama_pool.router.protocol.error_bodies import error_body
from vllama_pool.router.server.asgi import JSON, Scope
from vllama_pool.router.server.client_probe import ClientProbe
from vllama_pool.router.server.cycle_protocol import CycleProtocol
from vllama_pool.router.server.disconnect import DISCONNECT, DisconnectSignal
from vllama_pool.router.server.request_cycle import RequestCycle
from vllama_pool.router.telemetry.request_record import RECORD

UNEXPECTED_EOF = "unexpected EOF"

READ_AHEAD = 64 * 1024 * 1024
"""Bytes of a pipelined body that are read while an earlier request runs, to reach the end of stream behind it."""
LINGER = 1
"""Seconds without a request after which a draining process closes a connection."""
KEEPALIVE_SECONDS = 15
KEEPALIVE_PROBES = 9
"""TCP keep-alive as in Go's listeners."""


class ConnectionProtocol(CycleProtocol):
    """uvicorn's protocol for clients that half-close, pipeline, or leave at any time.

    A half-closed client gets its responses. All of a lost connection's requests learn of the disconnect, not only the
    latest one.
    """

    _active: RequestCycle | None = None
    """The request whose response is due, or the latest one."""
    _half_closed = False
    _probe: ClientProbe | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disconnect()
        self._unset_keepalive_if_required()
        if self._probe is not None:
            self._probe.stop()
            self._probe = None
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection open for the responses that are due."""
        self._half_closed = True
        if self._waiting() is None:
            return False
        self._drop_incomplete()
        if (waiting := self._waiting()) is None or waiting.ends_at_half_close:
            self._disconnect()
            return False
        if self._refusal is None:
            self._latest().keep_alive = False
        self._start_probe()
        return True

    def close_if_half_closed(self) -> None:
        """Close the connection soon. A request that needs no waiting is answered before."""
        if self._half_closed:
            self.loop.call_soon(self._close_for_end_of_stream)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.pipeline:
            self._start_probe()
            self._read_ahead()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        if self.pipeline:
            self._read_ahead()

    def drain(self) -> None:
        """End the connection without losing a request: its latest response says so, or it has been idle for LINGER.

        A client may send its next request just when this process decides to close. One that was active a moment ago
        probably does, and so does one that has only just connected. Their requests are answered.
        """
        if not self.keeps_alive:
            return
        self.keeps_alive = False
        waiting = self._waiting() is not None
        if waiting and not (latest := self._latest()).response_started:
            latest.keep_alive = False
        since = self.loop.time() if self._idle_until is None else self._idle_until - self.timeout_keep_alive
        self.timeout_keep_alive = LINGER
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        if not waiting:  # it may be idle, or have sent a part of a head
            self._idle_until = since + LINGER
            self.timeout_keep_alive_handler()

    def shutdown(self) -> None:
        self.drain()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._active = cycle
        if self._half_closed and not self.pipeline and self._refusal is None:
            cycle.keep_alive = False
        cycle.task = task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(task)

    def _waiting(self) -> RequestCycle | None:
        """Return the request whose response is due."""
        active = self._active
        return None if active is None or active.response_complete or active.disconnected else active

    def _latest(self) -> Any:
        return self.pipeline[0][0] if self.pipeline else self._active

    def _unanswered(self) -> Iterator[Any]:
        if (active := self._waiting()) is not None:
            yield active
        for cycle, _ in self.pipeline:
            yield cycle

    def _disconnect(self) -> None:
        for cycle in self._unanswered():
            cycle.waiting_for_100_continue = False  # nothing may be written any more
            cycle.message_event.set()
            cycle.fire()
        self.pipeline.clear()

    def _start_probe(self) -> None:
        if self._probe is None or not self._probe.running:
            self._probe = ClientProbe(self.transport, self.loop, self._doubtful, self._close_for_end_of_stream)

    def _doubtful(self) -> RequestCycle | None:
        """Return the request whose client may have left unnoticed."""
        return self._waiting() if self._half_closed or self.pipeline else None

    def _read_ahead(self) -> None:
        """Read one pipelined request, which uvicorn would leave in the kernel's buffer."""
        if len(self.pipeline) == 1 and len(self.cycle.body) < READ_AHEAD:
            self.flow.resume_reading()

    def _close_for_end_of_stream(self) -> None:
        if self._active is not None and self._active.ends_at_half_close:
            self._disconnect()
            self.transport.close()

    def _drop_incomplete(self) -> None:
        """Drop the latest request if its body cannot become complete."""
        latest = self._latest()
        if not latest.more_body:
            return
        if self.pipeline:
            self.pipeline.pop(0)
            return
        if not latest.response_started:
            latest.transport.write(closing_error(latest, 400, UNEXPECTED_EOF))
        self._disconnect()


def end_at_half_close(scope: Scope) -> None:
    """End this request if its client half-closes, as Ollama ends a generation. What needs no waiting is answered."""
    signal: DisconnectSignal | None = scope.get(DISCONNECT)
    if signal is not None:
        signal.end_at_half_close()


def enable_keepalive(listening: socket.socket) -> None:
    """Let the kernel detect clients that vanish without a FIN. Accepted connections inherit the options."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def closing_error(cycle: RequestCycle, status: int, text: str) -> bytes:
    """Return a whole response in the format of the request's path, after which the connection closes."""
    path, record = cycle.scope["path"], cycle.scope.get(RECORD)
    body = error_body(path, status, text, record.id if record else "")
    headers = (
        (b"content-type", JSON.encode()),
        (b"content-length", b"%d" % len(body)),
        *cycle.extra_headers,
        (b"connection", b"close"),
    )
    return STATUS_LINE[status] + b"".join(b"%b: %b\r\n" % pair for pair in headers) + b"\r\n" + body
