"""Ends what stays for too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class Expiry(Generic[Thing]):
    """Passes each thing to `expire` that is not taken back within `seconds`. One timer serves all."""

    def __init__(self, seconds: float, expire: Callable[[Thing], object]) -> None:
        self._seconds = seconds
        self._expire = expire
        self._since: dict[Thing, float] = {}  # oldest first
        self._timer: asyncio.TimerHandle | None = None

    def add(self, thing: Thing, loop: asyncio.AbstractEventLoop) -> None:
        self._since[thing] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._sweep, loop)

    def take(self, thing: Thing, now: float) -> bool:
        """Return False if it is not here, or has expired. `now`: on the loop's clock."""
        since = self._since.pop(thing, None)
        return since is not None and since + self._seconds >= now

    def discard(self, thing: Thing) -> None:
        self._since.pop(thing, None)

    def clear(self) -> None:
        """Forget everything."""
        self._since.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for thing, since in tuple(self._since.items()):
            if since + self._seconds > now:
                self._timer = loop.call_at(since + self._seconds, self._sweep, loop)
                return
            del self._since[thing]
            self._expire(thing)
