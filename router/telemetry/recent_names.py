"""The model names that clients of one router process have asked for lately."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

RECENT = 300.0
"""Seconds."""
MAX_NAMES = 4096
"""Names without a request in flight. The least recently used are forgotten first."""


class NamesInUse(msgspec.Struct, frozen=True):
    names: tuple[str, ...] = ()
    """As clients spelled them."""


class RecentNames:
    """Names of requests in flight, and of those that ended within RECENT."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` returns monotonic seconds."""
        self._clock = clock
        self._running: dict[str, int] = {}
        self._ended: dict[str, float] = {}  # the latest last

    def begin(self, name: str) -> None:
        self._running[name] = self._running.get(name, 0) + 1

    def end(self, name: str) -> None:
        """Call once for each `begin`."""
        if (left := self._running[name] - 1) > 0:
            self._running[name] = left
        else:
            del self._running[name]
        self._ended.pop(name, None)
        self._ended[name] = self._clock()
        if len(self._ended) > MAX_NAMES:
            del self._ended[next(iter(self._ended))]

    def in_use(self) -> NamesInUse:
        since = self._clock() - RECENT
        recent = (name for name, ended in self._ended.items() if ended >= since)
        return NamesInUse(tuple(dict.fromkeys((*self._running, *recent))))
