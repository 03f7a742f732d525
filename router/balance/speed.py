"""Measures a worker's speed: its tokens per second while it is full.

Only full workers are measured, and speed counts only among full workers (`Worker.score`): a half-empty worker
generates less because it has less to do, and treating that as slow would be a feedback loop.

The worker's load report is preferred, as it counts the requests of all routers. Without reports we use Little's law:
n requests in flight, each with `tokens` in `seconds`, make n x tokens / seconds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

SLOWEST, FASTEST = 0.25, 4.0
"""Bounds of relative speeds, so that one outlier neither starves nor floods a worker."""

SMOOTHING = 5.0
"""Time constant in seconds: after so many seconds of measuring, a rate or speed has moved 63 % of the way to the
measured value."""

SETTLED = 2.0
"""Seconds for which a worker must have been full before its reports count: their rate is an average over this time,
which must not include ramp-up and prefill."""

WINDOW = 30.0
"""Seconds over which our own measurements are averaged: responses differ in length more than workers in speed."""

MEMORY = 300.0
"""Seconds after which an unconfirmed rate is forgotten."""

REPORT_LIFE = 10.0
"""Seconds after a report in which our own measurements are ignored."""


class Rate:
    """Tokens per second of one full worker, from reports and responses. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._known: float | None = None
        self._evidence = 0.0
        self._known_at = 0.0
        self._reported_at = float("-inf")
        self._tokens = 0.0
        self._seconds = 0.0
        self._measured_at = 0.0

    def __repr__(self) -> str:
        return f"<Rate {'?' if self._known is None else round(self._known)} tokens/s>"

    def known(self, now: float) -> float | None:
        """Tokens per second when full; None if never measured, or too long ago."""
        return self._known if self._known is not None and now - self._known_at < MEMORY else None

    @property
    def confidence(self) -> float:
        """Weight of the measured rate, 0 to 1: short measurements are mostly noise."""
        return 1 - math.exp(-self._evidence / SMOOTHING)

    def reported(self, rate: float, full: bool, elapsed: float, now: float) -> None:
        """Record a reported rate in tokens/s, `elapsed` seconds after the previous one. `full`: full for SETTLED
        seconds."""
        if rate <= 0:
            return
        self._reported_at = now
        known = self.known(now)
        if full:
            self._learn(rate, elapsed, now)
        elif known is not None and rate > known:  # it is faster than measured
            self._known = rate

    def measured(self, tokens: int, seconds: float, load: float, full: bool, now: float) -> None:
        """Record a response of `tokens` in `seconds` from dispatch to end, with `load` requests on the worker."""
        if not full or tokens <= 0 or seconds <= 0 or now - self._reported_at < REPORT_LIFE:
            return
        elapsed = now - self._measured_at
        keep = math.exp(-elapsed / WINDOW)
        self._tokens = self._tokens * keep + tokens * load
        self._seconds = self._seconds * keep + seconds
        self._measured_at = now
        self._learn(self._tokens / self._seconds, min(elapsed, seconds), now)

    def _learn(self, rate: float, elapsed: float, now: float) -> None:
        known = self.known(now)
        elapsed = max(elapsed, 0.0)
        self._evidence = elapsed if known is None else self._evidence + elapsed
        if known is None:
            self._known = rate
        elif elapsed:  # the plain mean at first, then an exponential one
            self._known = known + max(1 - math.exp(-elapsed / SMOOTHING), elapsed / self._evidence) * (rate - known)
        self._known_at = now


def relative(rates: Sequence[Rate], priors: Sequence[float], now: float) -> list[float]:
    """Return the speeds of one model's workers, relative to the median of the measured ones.

    `priors` are the speeds declared in the workers' records (1.0 is normal). Their weight falls as confidence grows.
    """
    known = [rate.known(now) for rate in rates]
    scale = statistics.median([value for value in known if value is not None] or [1.0])
    speeds = (
        prior if value is None else prior + rate.confidence * (value / scale - prior)
        for rate, value, prior in zip(rates, known, priors, strict=True)
    )
    return [min(max(speed, SLOWEST), FASTEST) for speed in speeds]
