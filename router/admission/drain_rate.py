"""The rate at which a model's requests end, and the Retry-After that follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable

MIN_RETRY_AFTER, MAX_RETRY_AFTER = 1, 60
"""Seconds."""
WINDOW = 5.0
"""Seconds. The rate is taken over the last one to two windows."""
STALE = 30.0
"""Seconds without a look at the count, after which the rate is measured anew."""
_SHORTEST = 0.5
"""Seconds from which on a count is a rate."""


class DrainRate:
    """Looks at a running count of ended requests. Costs nothing between the looks."""

    __slots__ = ("_ended", "_newer", "_older")

    def __init__(self, ended: Callable[[], int]) -> None:
        """`ended`: requests that have ended so far."""
        self._ended = ended
        self._older = self._newer = (-math.inf, 0)

    def __repr__(self) -> str:
        return f"<DrainRate since {self._older}>"

    def look(self, now: float) -> float:
        """Return the requests that end per second; 0 if unknown."""
        ended = self._ended()
        if now - self._newer[0] > STALE:
            self._older = self._newer = (now, ended)
        elif now - self._newer[0] > WINDOW:
            self._older, self._newer = self._newer, (now, ended)
        since, before = self._older
        return (ended - before) / (now - since) if now - since >= _SHORTEST else 0.0

    def retry_after(self, waiting: int, now: float) -> int:
        """Return the seconds in which `waiting` requests and one more get their turn."""
        rate = self.look(now)
        if not rate:
            return MIN_RETRY_AFTER
        return max(MIN_RETRY_AFTER, min(MAX_RETRY_AFTER, math.ceil((waiting + 1) / rate)))
