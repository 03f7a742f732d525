"""Seconds that a process really had, for measurements on a machine that others use too."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

TICK = 0.01
MOST = 0.03
"""Seconds that a turn of the event loop counts at most, unless the process computed for longer."""


class OwnTime:
    """A clock that stands still while the machine does not run this process.

    A turn counts for as long as it took, but beyond MOST only for the CPU time that the process used. So a time-out of
    this process counts in full, its computation counts in full, and a pause by the machine does not.
    """

    def __init__(self) -> None:
        self._counted = 0.0
        self._last = (time.monotonic(), time.process_time())

    @property
    def now(self) -> float:
        """Seconds since an arbitrary moment."""
        return self._counted + self._since()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._counted += self._since()
            self._last = (time.monotonic(), time.process_time())

    def _since(self) -> float:
        wall, computed = self._last
        return min(time.monotonic() - wall, max(MOST, time.process_time() - computed))


@contextlib.asynccontextmanager
async def own_time() -> AsyncIterator[OwnTime]:
    """Yields a clock that runs in this event loop."""
    clock = OwnTime()
    task = asyncio.create_task(clock.run())
    try:
        yield clock
    finally:
        task.cancel()
        await asyncio.wait([task])
