"""Detects that a client closed its connection where its end of stream does not tell.

A client that half-closed its connection still reads, one that closed it does not, and both send the same FIN. A kernel
answers data on a closed connection with a reset. All responses begin with the same bytes, so the probe writes these
ahead of the response, one at a time.
"""

from __future__ import annotations

import asyncio
import select
import weakref
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

RESPONSE_START = b"HTTP/1."
_VERSION = RESPONSE_START + b"1 "
_VERSION_1_0 = RESPONSE_START + b"0 "
PROBE_TIMES = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds since the doubt arose, one per byte of RESPONSE_START. A proxy in between notices at the second byte."""
POLL_SECONDS = 0.05


class ClientProbe:
    """Probes the client of one connection while `waiting` returns the request that waits for its response."""

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        waiting: Callable[[], RequestResponseCycle | None],
        half_closed: Callable[[], object],
    ) -> None:
        """`half_closed` is called for an end of stream that the kernel has received, whether or not it was read."""
        self._transport = transport
        self._loop = loop
        self._waiting = waiting
        self._half_closed = half_closed
        self._poll: select.poll | None = None
        self._cycle: RequestResponseCycle | None = None
        self._since = loop.time()
        self._timer: asyncio.TimerHandle | None = loop.call_later(POLL_SECONDS, self._check)

    @property
    def running(self) -> bool:
        return self._timer is not None

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        self._timer = None
        cycle = self._waiting()
        if cycle is None or self._transport.is_closing():
            return
        events = self._events()
        if events & (select.POLLERR | select.POLLHUP):
            self._transport.abort()
            return
        if events & select.POLLRDHUP:
            self._half_closed()
            if self._transport.is_closing():
                return
        self._write_due_byte(cycle)
        self._timer = self._loop.call_later(POLL_SECONDS, self._check)

    def _events(self) -> int:
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        return sum(events for _, events in self._poll.poll(0))

    def _write_due_byte(self, cycle: RequestResponseCycle) -> None:
        if cycle is not self._cycle:
            self._cycle, self._since = cycle, self._loop.time() - POLL_SECONDS
        if cycle.response_started:
            return
        start = cycle.transport if isinstance(cycle.transport, ResponseStart) else ResponseStart(cycle)
        written = start.written
        if written < len(PROBE_TIMES) and self._loop.time() - self._since >= PROBE_TIMES[written]:
            cycle.transport = start  # type: ignore[assignment]
            start.write_ahead()


class ResponseStart:
    """A request's transport until its response starts: leaves out the bytes that were written ahead.

    `http10`: the status line names HTTP/1.0, as Go's server does for clients of that version.
    """

    def __init__(self, cycle: RequestResponseCycle, *, http10: bool = False) -> None:
        self.written = 0
        self._cycle = weakref.ref(cycle)  # its transport is this: no garbage if its client leaves
        self._transport = cycle.transport
        self._http10 = http10

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write_ahead(self) -> None:
        self._transport.write(RESPONSE_START[self.written : self.written + 1])
        self.written += 1

    def write(self, data: bytes) -> None:
        if (cycle := self._cycle()) is not None:
            cycle.transport = self._transport
        if self._http10 and data.startswith(_VERSION):
            data = _VERSION_1_0 + data[len(_VERSION) :]
        self._transport.write(data[self.written :])
