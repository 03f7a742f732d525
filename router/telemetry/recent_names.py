"""The model names that clients of one router process have asked for lately."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable

import msgspec

RECENT = 300 * 10**9
"""Nanoseconds."""
MAX_NAMES = 4096
TRIM_INTERVAL = 0.5
"""Seconds."""


class NamesInUse(msgspec.Struct, frozen=True):
    names: tuple[str, ...] = ()
    """As clients spelled them."""


class RecentNames:
    """Names of requests that arrived within RECENT."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """`clock` returns monotonic nanoseconds."""
        self._clock = clock
        self._asked: dict[str, int] = {}
        self.note = self._asked.__setitem__
        """Takes a name and its arrival in monotonic nanoseconds. A dictionary's own method costs requests no frame."""

    async def run(self) -> None:
        """Bound the memory, until cancelled."""
        while True:
            await asyncio.sleep(TRIM_INTERVAL)
            self.trim()

    def trim(self) -> None:
        """Forget the least recently used names beyond MAX_NAMES."""
        excess = len(self._asked) - MAX_NAMES
        if excess > 0:
            for name in heapq.nsmallest(excess, self._asked, key=self._asked.__getitem__):
                del self._asked[name]

    def in_use(self, running: Iterable[str] = ()) -> NamesInUse:
        """Return the names, and those of models with a request in flight, `running`."""
        since = self._clock() - RECENT
        recent = (name for name, arrived in self._asked.items() if arrived >= since)
        return NamesInUse(tuple(dict.fromkeys((*running, *recent))))
