"""How fast a worker is, learnt from what it does.

A worker's speed is the tokens per second that it makes when it is *full*: a half-empty worker makes fewer
because it is asked for fewer, and taking that for slowness (or a well-fed one's rate for speed) would feed
itself. So only full workers are measured; the others keep what their record says of them, unless they have been
seen to make more than that while measured ones set the scale.

The worker's own report is preferred, for it counts the requests of all routers. Without reports (a worker whose
metrics cannot be read) Little's law does: n requests in it, each making `tokens` in `seconds`, make
n x tokens / seconds together.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

SLOWEST, FASTEST = 0.25, 4.0
"""Relative speeds are held within these, so that one odd measurement neither starves nor floods a worker."""

SMOOTHING = 5.0
"""Seconds: how quickly a measured rate follows a changed one."""

MEMORY = 300.0
"""Seconds after which a rate that was never confirmed is forgotten."""

REPORT_LIFE = 10.0
"""Seconds after a report in which own measurements are not wanted."""


class Rate:
    """Tokens per second of one worker. Fed with reports and finished answers; times in monotonic seconds."""

    def __init__(self) -> None:
        self._full: float | None = None
        self._full_at = 0.0
        self._shown = 0.0
        self._shown_at = 0.0
        self._reported_at = float("-inf")
        self._tokens = 0.0
        self._seconds = 0.0
        self._measured_at = 0.0

    def __repr__(self) -> str:
        full = "?" if self._full is None else f"{self._full:.0f}"
        return f"<Rate full={full} shown={self._shown:.0f} tokens/s>"

    def full(self, now: float) -> float | None:
        """Tokens per second when full; None where that was never seen, or too long ago."""
        return self._full if self._full is not None and now - self._full_at < MEMORY else None

    def shown(self, now: float) -> float:
        """The most tokens per second it has been seen to make; 0 where none."""
        return self._shown if now - self._shown_at < MEMORY else 0.0

    def reported(self, rate: float, full: bool, elapsed: float, now: float) -> None:
        """The worker made `rate` tokens/s over the last `elapsed` seconds, full all along or not."""
        if rate <= 0:
            return
        self._reported_at = now
        self._learn(rate, full, elapsed, now)

    def measured(self, tokens: int, seconds: float, load: float, full: bool, now: float) -> None:
        """An answer of `tokens` took `seconds` from dispatch to end, with `load` requests in the worker."""
        if tokens <= 0 or seconds <= 0 or now - self._reported_at < REPORT_LIFE:
            return
        elapsed = now - self._measured_at
        keep = math.exp(-elapsed / SMOOTHING)
        self._tokens = self._tokens * keep + tokens * load
        self._seconds = self._seconds * keep + seconds
        self._measured_at = now
        if full:
            self._learn(self._tokens / self._seconds, True, elapsed, now)

    def _learn(self, rate: float, full: bool, elapsed: float, now: float) -> None:
        if rate > self.shown(now):
            self._shown, self._shown_at = rate, now
        known = self.full(now)
        if full:
            share = 1 - math.exp(-max(elapsed, 0.0) / SMOOTHING)
            self._full = rate if known is None else known + share * (rate - known)
            self._full_at = now
            self._shown, self._shown_at = self._full, now
        elif known is not None and rate > known:
            self._full, self._full_at = rate, now


def relative(rates: Sequence[Rate], priors: Sequence[float], now: float) -> list[float]:
    """Speeds of one model's workers, relative to the median of those that were measured when full.

    `priors` are the speeds that the workers' records claim, 1.0 for a normal one: they hold where nothing was
    measured.
    """
    full = [rate.full(now) for rate in rates]
    known = [value for value in full if value is not None]
    scale = statistics.median(known) if known else 0.0
    speeds = []
    for rate, value, prior in zip(rates, full, priors, strict=True):
        speed = prior
        if value is not None:
            speed = value / scale
        elif scale:
            speed = max(prior, rate.shown(now) / scale)
        speeds.append(min(max(speed, SLOWEST), FASTEST))
    return speeds
