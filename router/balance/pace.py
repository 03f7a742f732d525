"""Finds workers that generate far slower than their peers: a throttled GPU, a noisy neighbour, a failing disk.

A worker's pace is the tokens per second of one request in it, by its load reports, relative to its declared speed.
Least-load alone sends a slow worker as many requests as it has in flight elsewhere, so an idle fleet gives it its full
share. Paces depend on batch sizes and prompts, so only a pace below a third of the usual one counts, and only if the
tokens per second of all its requests are that low too: a worker with most of the requests is not slow for that.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

OUTLIER = 1 / 3
"""Of the usual pace."""
MIN_DRAG = 0.05
WINDOW = 3.0
"""Time constant in seconds over which a pace is averaged."""
MIN_EVIDENCE = 1.0
"""Seconds of requests in a worker, within the window, that make a pace."""
MAX_GAP = 5.0
"""Seconds between two reports, beyond which the later one says nothing about the time between them."""
LIFETIME = 15.0
"""Seconds after which a worker without requests is tried again."""


class Pace:
    """Tokens per second and request of one worker. Times are monotonic seconds."""

    __slots__ = ("_busy", "_heard_at", "_seconds", "_tokens", "declared")

    def __init__(self, declared: float = 1.0) -> None:
        self.declared = declared
        """The worker's declared speed."""
        self._tokens = self._seconds = 0.0
        self._busy = 0.0
        """Seconds with a request."""
        self._heard_at = float("-inf")

    def __repr__(self) -> str:
        return f"<Pace of {self._tokens:.0f} tokens in {self._seconds:.1f} s>"

    def record_report(self, running: int, tokens_per_second: float, elapsed: float, now: float) -> None:
        """Record a report, `elapsed` seconds after the previous one. Without tokens, it may be about long prompts."""
        if not running or tokens_per_second <= 0 or elapsed > MAX_GAP:
            return
        if now - self._heard_at > LIFETIME:
            self.forget()
        decay = math.exp(-elapsed / WINDOW)
        self._tokens = self._tokens * decay + tokens_per_second * elapsed
        self._seconds = self._seconds * decay + running * elapsed
        self._busy = self._busy * decay + elapsed
        self._heard_at = now

    def value(self, now: float) -> float | None:
        """Return tokens per second of one request; None without enough evidence, or if it is too old."""
        return self._tokens / self._seconds / self.declared if self._is_known(now) else None

    def in_all(self, now: float) -> float | None:
        """Return tokens per second of all requests together; None as in `value`."""
        return self._tokens / self._busy / self.declared if self._is_known(now) else None

    def _is_known(self, now: float) -> bool:
        return self._seconds >= MIN_EVIDENCE and now - self._heard_at <= LIFETIME

    def forget(self) -> None:
        """The worker is a new process, or has been away."""
        self._tokens = self._seconds = self._busy = 0.0


def usual_pace(paces: Sequence[float]) -> float:
    """Return the pace that those of one model's workers are compared with; 0 if there is none.

    Of an even number, the higher of the two middle ones, so that a slow worker stands out among two.
    """
    return statistics.median_high(paces) if len(paces) > 1 else 0.0


def drag(pace: float, usual: float) -> float:
    """Return the factor on the speed of a worker of this pace: 1 unless it is an outlier."""
    if usual <= 0 or pace >= usual * OUTLIER:
        return 1.0
    return max(pace / usual, MIN_DRAG)
