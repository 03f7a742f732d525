"""Ends requests whose whole time is over.

One background task checks the requests that have a limit, instead of a timer per request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol


class Expiring(Protocol):
    """A request with a limit on its whole time."""

    @property
    def deadline(self) -> float:
        """Monotonic seconds."""

    def expire(self) -> None:
        """End the request with one error. Idempotent."""


class Deadlines:
    """Checks all requests with a limit every `interval` seconds."""

    def __init__(self, *, interval: float = 0.25) -> None:
        self._interval = interval
        self._watched: set[Expiring] = set()
        self.watch = self._watched.add
        self.unwatch = self._watched.discard
        """Idempotent."""

    def __repr__(self) -> str:
        return f"<Deadlines {len(self._watched)} watched>"

    async def run(self, clock: Callable[[], float]) -> None:
        """`clock` returns monotonic seconds."""
        while True:
            await asyncio.sleep(self._interval)
            self.check(clock())

    def check(self, now: float) -> None:
        for request in tuple(self._watched):
            if now >= request.deadline:
                self.unwatch(request)
                request.expire()
