"""A circuit breaker: opens after consecutive failures and lets one probe through when its hold time ends."""

from __future__ import annotations

import enum


class Circuit(enum.StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """Opens after `threshold` consecutive failures, for `hold` seconds times the consecutive openings, up to `ceiling`.

    It is then half-open: one request goes through as a probe. Success closes the breaker, failure opens it for longer.
    Times are monotonic seconds. Results of requests sent before the latest opening are ignored, so that fifty streams
    that break together count as one failure.
    """

    def __init__(self, threshold: int, hold: float, ceiling: float = 60.0) -> None:
        self._threshold = threshold
        self._hold = hold
        self._ceiling = ceiling
        self.failures = 0
        """Consecutive failures."""
        self.failed_at = float("-inf")
        """Time of the latest failure."""
        self.openings = 0
        """Times opened since the last success."""
        self.is_open = False
        """True if open or half-open."""
        self._opened_at = float("-inf")
        self._until = float("-inf")
        self._probing = False

    def __repr__(self) -> str:
        if not self.is_open:
            return f"<Breaker closed, {self.failures} failures>"
        probe = ", probing" if self._probing else ""
        return f"<Breaker open until {self._until:.1f}, {self.openings} openings{probe}>"

    def circuit(self, now: float) -> Circuit:
        if not self.is_open:
            return Circuit.CLOSED
        return Circuit.OPEN if now < self._until else Circuit.HALF_OPEN

    def allows(self, now: float) -> bool:
        """True if closed, or half-open without a probe under way."""
        return not self.is_open or (now >= self._until and not self._probing)

    def take(self, now: float) -> bool:
        """Register a request. Returns True if it is the probe: its owner reports a result or calls `abandon_probe`."""
        if self.is_open and now >= self._until and not self._probing:
            self._probing = True
            return True
        return False

    def abandon_probe(self) -> None:
        """End the probe without a result, so that the next request becomes the probe."""
        self._probing = False

    def failed(self, sent: float, now: float) -> None:
        """Record the failure of a request sent at `sent`."""
        if sent < self._opened_at or (self.is_open and now < self._until):
            return
        self.failures += 1
        self.failed_at = now
        if self.is_open or self.failures >= self._threshold:
            self._trip(now)

    def succeeded(self, sent: float) -> bool:
        """Record the success of a request sent at `sent`. Returns True if that closed the breaker."""
        if sent < self._opened_at:
            return False
        was_open = self.is_open
        self._close()
        self.openings = 0
        return was_open

    def close_once(self) -> bool:
        """Close without a success, unless it has reopened since the last one. Returns True if that closed it.

        The count of openings stays, so that the next failure opens it for longer.
        """
        if not self.is_open or self.openings > 1:
            return False
        self._close()
        return True

    def reset(self, now: float) -> None:
        """Close, and ignore the results of requests sent before `now`."""
        self._close()
        self.openings = 0
        self._opened_at = now

    def _close(self) -> None:
        self.is_open = self._probing = False
        self.failures = 0

    def _trip(self, now: float) -> None:
        self.is_open = True
        self._probing = False
        self.openings += 1
        self._opened_at = now
        self._until = now + min(self._hold * self.openings, self._ceiling)
