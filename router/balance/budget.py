"""The retry budget of one model."""

from __future__ import annotations


class RetryBudget:
    """A token bucket: each request adds 0.2 retries, up to 20 % of the requests in flight, but at least three.

    If every attempt fails, workers see at most 1.2 attempts per request, plus three.
    """

    TOKENS_PER_REQUEST = 0.2
    MIN_CAPACITY = 3.0

    __slots__ = ("available", "in_flight")

    def __init__(self) -> None:
        self.in_flight = 0
        self.available = self.MIN_CAPACITY
        """Retries that may be spent; less than 1 means none."""

    def __repr__(self) -> str:
        return f"<RetryBudget {self.available:.1f} available, {self.in_flight} in flight>"

    def begin_request(self) -> None:
        """Count a request in flight and add its share."""
        self.in_flight += 1
        if self.available < self.MIN_CAPACITY or self.available < self.TOKENS_PER_REQUEST * self.in_flight:
            self.available += self.TOKENS_PER_REQUEST
            self._cap()

    def end_request(self) -> None:
        """Call once for each `begin_request`."""
        self.in_flight -= 1
        if self.available > self.MIN_CAPACITY:
            self._cap()

    def try_spend(self) -> bool:
        """Return False if no retry is available."""
        if self.available < 1:
            return False
        self.available -= 1
        return True

    def _cap(self) -> None:
        self.available = min(self.available, max(self.MIN_CAPACITY, self.TOKENS_PER_REQUEST * self.in_flight))
