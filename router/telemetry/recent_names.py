"""The model names that clients of one router process have asked for lately."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

import msgspec

RECENT = 300 * 10**9
"""Nanoseconds."""
MAX_NAMES = 4096
"""The least recently used are forgotten first."""
FORGOTTEN_AT_ONCE = 256


class NamesInUse(msgspec.Struct, frozen=True):
    names: tuple[str, ...] = ()
    """As clients spelled them."""


class RecentNames:
    """Names of requests that arrived within RECENT."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """`clock` returns monotonic nanoseconds."""
        self._clock = clock
        self._asked: dict[str, int] = {}

    def note(self, name: str, arrived: int) -> None:
        """`arrived`: monotonic nanoseconds."""
        self._asked[name] = arrived
        if len(self._asked) > MAX_NAMES:
            self._forget_oldest()

    def in_use(self, running: Iterable[str] = ()) -> NamesInUse:
        """Return the names, and those of models with a request in flight, `running`."""
        since = self._clock() - RECENT
        recent = (name for name, arrived in self._asked.items() if arrived >= since)
        return NamesInUse(tuple(dict.fromkeys((*running, *recent))))

    def _forget_oldest(self) -> None:
        """Forget several names at once, since this looks at all of them."""
        for name in heapq.nsmallest(FORGOTTEN_AT_ONCE, self._asked, key=self._asked.__getitem__):
            del self._asked[name]
