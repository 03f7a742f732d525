"""How fast a worker is, learnt from what it does.

A worker's speed is the tokens per second that it makes when it is *full*: a half-empty worker makes fewer
because it is asked for fewer, and taking that for slowness (or a well-fed one's rate for speed) would feed
itself. So only full workers are measured, and only among full ones does speed decide; see `Worker.score`.

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
"""Seconds: how quickly a known rate follows a changed one, and a speed what was measured of it: after so many
seconds of measuring, 63 % of the way from what the worker's record claims."""

SETTLED = 2.0
"""Seconds for which a worker must have been full before its reports count: the rate in them looks back so far, and
the time when the requests were still coming, or their prompts were read, says nothing of its speed."""

WINDOW = 30.0
"""Seconds over which own measurements are added up: answers differ in length far more than workers in speed."""

MEMORY = 300.0
"""Seconds after which a rate that was never confirmed is forgotten."""

REPORT_LIFE = 10.0
"""Seconds after a report in which own measurements are not wanted."""


class Rate:
    """Tokens per second of one worker when full. Fed with reports and answers; times in monotonic seconds."""

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
        """Tokens per second when full; None where that was never seen, or too long ago."""
        return self._known if self._known is not None and now - self._known_at < MEMORY else None

    @property
    def confidence(self) -> float:
        """How far what is known is to be believed, 0 to 1. A second of measuring is mostly noise."""
        return 1 - math.exp(-self._evidence / SMOOTHING)

    def reported(self, rate: float, full: bool, elapsed: float, now: float) -> None:
        """The worker makes `rate` tokens/s, and its last report was `elapsed` seconds ago. `full`: it was all along
        (see SETTLED)."""
        if rate <= 0:
            return
        self._reported_at = now
        known = self.known(now)
        if full:
            self._learn(rate, elapsed, now)
        elif known is not None and rate > known:  # so it was slow only for a time
            self._known = rate

    def measured(self, tokens: int, seconds: float, load: float, full: bool, now: float) -> None:
        """An answer of `tokens` took `seconds` from dispatch to end, with `load` requests in the worker."""
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
        elif elapsed:  # the plain mean, until there is enough of it
            self._known = known + max(1 - math.exp(-elapsed / SMOOTHING), elapsed / self._evidence) * (rate - known)
        self._known_at = now


def relative(rates: Sequence[Rate], priors: Sequence[float], now: float) -> list[float]:
    """Speeds of one model's workers, relative to the median of those that were measured.

    `priors` are the speeds that the workers' records claim, 1.0 for a normal one: they hold where nothing was
    measured, and lose their hold as measuring goes on.
    """
    known = [rate.known(now) for rate in rates]
    scale = statistics.median([value for value in known if value is not None] or [1.0])
    speeds = (
        prior if value is None else prior + rate.confidence * (value / scale - prior)
        for rate, value, prior in zip(rates, known, priors, strict=True)
    )
    return [min(max(speed, SLOWEST), FASTEST) for speed in speeds]
