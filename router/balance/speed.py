"""Measures a worker's speed: its tokens per second while it is full.

Speed counts only among full workers (`balance/score.py`). A half-empty worker generates less because it has less to do;
treating that as slow would be a feedback loop.

The worker's load report is preferred, as it counts the requests of all routers. Without reports we use Little's law:
n requests in flight, each with `tokens` in `seconds`, make n x tokens / seconds.
"""

from __future__ import annotations

import math
import statistics

from vllama_pool.router.balance.pace import Pace, drag, usual_pace

MIN_SPEED, MAX_SPEED = 0.25, 4.0
"""Bounds of relative speeds, so that one outlier neither starves nor floods a worker."""

SMOOTHING_TIME = 5.0
"""Time constant in seconds: after this time a rate has moved 63 % of the way to the measured value."""

MIN_FULL_TIME = 2.0
"""Seconds for which a worker must have been full before its reports count: they average over this time, which must not
include ramp-up and prefill."""

RESPONSE_WINDOW = 30.0
"""Seconds over which our own measurements are averaged: responses differ in length more than workers in speed."""

RATE_LIFETIME = 300.0
"""Seconds after which an unconfirmed rate is forgotten."""

MEDIAN_LIFETIME = 0.5
"""Seconds for which the medians of one model's rates and paces are used."""

REPORT_LIFETIME = 10.0
"""Seconds after a report in which our own measurements are ignored."""


class Rate:
    """Tokens per second of one full worker, from reports and responses. Times are monotonic seconds."""

    __slots__ = (*("_value", "_evidence", "_confirmed_at", "_reported_at", "_tokens", "_seconds", "_measured_at"),)

    def __init__(self) -> None:
        self._value: float | None = None
        self._evidence = 0.0  # seconds of measuring
        self._confirmed_at = 0.0
        self._reported_at = float("-inf")
        self._tokens = 0.0
        self._seconds = 0.0
        self._measured_at = 0.0

    def __repr__(self) -> str:
        return f"<Rate {'?' if self._value is None else round(self._value)} tokens/s>"

    def value(self, now: float) -> float | None:
        """Tokens per second when full; None if never measured, or too long ago."""
        return self._value if self._value is not None and now - self._confirmed_at < RATE_LIFETIME else None

    @property
    def confidence(self) -> float:
        """Weight of the measured rate, 0 to 1: short measurements are mostly noise."""
        return 1 - math.exp(-self._evidence / SMOOTHING_TIME)

    def record_report(self, rate: float, full: bool, elapsed: float, now: float) -> None:
        """Record a reported rate in tokens/s, `elapsed` seconds after the previous one. `full`: full for MIN_FULL_TIME.

        A higher rate counts at any load.
        """
        if rate <= 0:
            return
        self._reported_at = now
        value = self.value(now)
        if full:
            self._update(rate, elapsed, now)
        elif value is not None and rate > value:
            self._value = rate

    def record_response(self, tokens: int, seconds: float, load: float, now: float) -> None:
        """Record a response of `tokens` in `seconds` from dispatch to end, with `load` requests on the full worker."""
        if tokens <= 0 or seconds <= 0 or now - self._reported_at < REPORT_LIFETIME:
            return
        elapsed = now - self._measured_at
        decay = math.exp(-elapsed / RESPONSE_WINDOW)
        self._tokens = self._tokens * decay + tokens * load
        self._seconds = self._seconds * decay + seconds
        self._measured_at = now
        self._update(self._tokens / self._seconds, min(elapsed, seconds), now)

    def _update(self, rate: float, elapsed: float, now: float) -> None:
        value = self.value(now)
        elapsed = max(elapsed, 0.0)
        self._evidence = elapsed if value is None else self._evidence + elapsed
        if value is None:
            self._value = rate
        elif elapsed:  # the plain mean at first, then an exponential one
            gain = max(1 - math.exp(-elapsed / SMOOTHING_TIME), elapsed / self._evidence)
            self._value = value + gain * (rate - value)
        self._confirmed_at = now


class Peers:
    """The rates of one model's workers. A speed is relative to the median of the measured ones."""

    __slots__ = ("_median", "_median_until", "_paces", "_rates", "_usual_in_all", "_usual_pace", "_usual_until")

    def __init__(self) -> None:
        self._rates: dict[str, Rate] = {}
        self._paces: dict[str, Pace] = {}
        self._usual_pace = self._usual_in_all = 0.0
        self._usual_until = float("-inf")
        self._median = 1.0
        self._median_until = float("-inf")

    def __repr__(self) -> str:
        return f"<Peers {len(self._rates)} workers, median {self._median:.0f} tokens/s>"

    def __len__(self) -> int:
        return len(self._rates)

    def join(self, worker_id: str, rate: Rate, pace: Pace) -> None:
        self._rates[worker_id] = rate
        self._paces[worker_id] = pace

    def leave(self, worker_id: str) -> None:
        del self._rates[worker_id], self._paces[worker_id]

    def speed(self, rate: Rate, declared: float, now: float) -> float:
        """Return a worker's speed. `declared` (1.0 is normal) counts less as confidence in the rate grows."""
        value = rate.value(now)
        speed = declared if value is None else declared + rate.confidence * (value / self._median_at(now) - declared)
        return min(max(speed, MIN_SPEED), MAX_SPEED)

    def drag(self, pace: Pace, now: float) -> float:
        """Return the factor, at most 1, on the speed of a worker that is far slower than its peers."""
        own, in_all = pace.value(now), pace.in_all(now)
        if own is None or in_all is None:
            return 1.0
        if now >= self._usual_until:
            paces = self._paces.values()
            self._usual_pace = usual_pace([value for one in paces if (value := one.value(now)) is not None])
            self._usual_in_all = usual_pace([value for one in paces if (value := one.in_all(now)) is not None])
            self._usual_until = now + MEDIAN_LIFETIME
        return max(drag(own, self._usual_pace), drag(in_all, self._usual_in_all))

    def _median_at(self, now: float) -> float:
        if now >= self._median_until:
            values = [value for rate in self._rates.values() if (value := rate.value(now)) is not None]
            self._median = statistics.median(values or [1.0])
            self._median_until = now + MEDIAN_LIFETIME
        return self._median
