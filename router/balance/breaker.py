"""Circuit breaker: opens after consecutive failures, and lets one probe through when its hold time ends."""

from __future__ import annotations

import enum


class BreakerState(enum.StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


CALM = 60.0
"""Seconds after the end of a hold without another opening until earlier openings are forgotten. A worker that flaps
answers between two failures, so that a success alone must not forgive it."""


class Breaker:
    """Opens after `threshold` consecutive failures for `hold` seconds x recent openings, at most `max_hold`.

    Results of requests `sent` before the latest opening are ignored, so that fifty streams that break together count as
    one failure. Times are monotonic seconds.
    """

    __slots__ = (
        *("failures", "failed_at", "openings", "is_open", "is_clean", "half_open_at"),
        *("_threshold", "_hold", "_max_hold", "_opened_at", "_probing", "_firm"),
    )

    def __init__(self, threshold: int, hold: float, max_hold: float = 60.0) -> None:
        self._threshold = threshold
        self._hold = hold
        self._max_hold = max_hold
        self.failures = 0
        """Consecutive failures."""
        self.failed_at = float("-inf")
        self.openings = 0
        """Openings without CALM between them."""
        self.is_open = False
        """True if open or half-open."""
        self.is_clean = True
        """True without a failure or an opening since the last success: another success then changes nothing."""
        self._firm = False
        self.half_open_at = float("-inf")
        self._opened_at = float("-inf")
        self._probing = False

    def __repr__(self) -> str:
        if not self.is_open:
            return f"<Breaker closed, {self.failures} failures>"
        probe = ", probing" if self._probing else ""
        return f"<Breaker open until {self.half_open_at:.1f}, {self.openings} openings{probe}>"

    def state(self, now: float) -> BreakerState:
        if not self.is_open:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self.half_open_at else BreakerState.HALF_OPEN

    def allows(self, now: float) -> bool:
        """True if closed, or half-open without a probe in flight."""
        return not self.is_open or (now >= self.half_open_at and not self._probing)

    def acquire_probe(self, now: float) -> bool:
        """Register a request. Return True if it is the probe, which ends in a result or `release_probe`."""
        if self.is_open and now >= self.half_open_at and not self._probing:
            self._probing = True
            return True
        return False

    def release_probe(self) -> None:
        """End the probe without a result: the next request becomes the probe."""
        self._probing = False

    def record_failure(self, sent: float, now: float, *, firm: bool = False) -> None:
        """`firm`: `close_once` has no effect on the opening that this failure causes."""
        if sent < self._opened_at or (self.is_open and now < self.half_open_at):
            return
        self.is_clean = False
        self.failures += 1
        self.failed_at = now
        if self.is_open or self.failures >= self._threshold:
            self._trip(now)
            self._firm = firm

    def record_success(self, sent: float) -> bool:
        """Return True if it closed the breaker."""
        if self.is_clean or sent < self._opened_at:
            return False
        was_open = self.is_open
        self._close()
        self.is_clean = True
        return was_open

    def close_once(self) -> bool:
        """Close without a success after the first opening only. Return True if it closed the breaker.

        The next failure still opens it for longer.
        """
        if not self.is_open or self.openings > 1 or self._firm:
            return False
        self._close()
        return True

    def reset(self, now: float) -> None:
        """Close, and ignore the results of requests sent before `now`. Openings are not forgotten."""
        self._close()
        self.is_clean = True
        self._opened_at = now

    def _close(self) -> None:
        self.is_open = self._probing = False
        self.failures = 0

    def _trip(self, now: float) -> None:
        if now - self.half_open_at > CALM:
            self.openings = 0
        self.is_open = True
        self._probing = False
        self.openings += 1
        self._opened_at = now
        self.half_open_at = now + min(self._hold * self.openings, self._max_hold)
