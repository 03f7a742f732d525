"""A circuit breaker: opens after failures in a row, and lets one probe through when its time is over."""

from __future__ import annotations

import enum


class Circuit(enum.StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """Opens after `threshold` failures in a row, for `hold` seconds times the openings in a row, up to `ceiling`.

    When that time is over it is half open: one request is let through as a probe. Its success closes the
    breaker, its failure opens it for longer. Times are seconds of one monotonic clock. Requests sent before the
    breaker last opened say nothing new, so fifty streams that break together count as one event.
    """

    def __init__(self, threshold: int, hold: float, ceiling: float = 60.0) -> None:
        self._threshold = threshold
        self._hold = hold
        self._ceiling = ceiling
        self.failures = 0
        """Failures in a row since the last success."""
        self.failed_at = float("-inf")
        """When the last of them was seen."""
        self.openings = 0
        """Times opened since the last success."""
        self.is_open = False
        """Open or half open."""
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
        """Closed, or half open with nobody probing yet."""
        return not self.is_open or (now >= self._until and not self._probing)

    def take(self, now: float) -> bool:
        """A request goes out. True if it is the probe; its owner then gives a verdict, or calls `untake`."""
        if self.is_open and now >= self._until and not self._probing:
            self._probing = True
            return True
        return False

    def untake(self) -> None:
        """The probe ended without a verdict (its client left); the next request is one."""
        self._probing = False

    def failed(self, sent: float, now: float) -> None:
        """A request sent at `sent` failed."""
        if sent < self._opened_at or (self.is_open and now < self._until):
            return
        self.failures += 1
        self.failed_at = now
        if self.is_open or self.failures >= self._threshold:
            self._trip(now)

    def succeeded(self, sent: float) -> bool:
        """A request sent at `sent` was answered. True if that closed the breaker."""
        if sent < self._opened_at:
            return False
        was_open = self.is_open
        self._close()
        self.openings = 0
        return was_open

    def close_once(self) -> bool:
        """Close on somebody else's word, once: not if it has opened again without a success in between.

        True if it was open and is closed now. The count of openings stays, so that the next failure opens it
        for longer.
        """
        if not self.is_open or self.openings > 1:
            return False
        self._close()
        return True

    def reset(self, now: float) -> None:
        """Begin anew: what requests sent until now still have to tell is of the past."""
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
