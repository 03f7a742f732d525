"""The retry budget of one model in one router process."""

from __future__ import annotations


class RetryBudget:
    """A token bucket: each request adds `share` retries, up to this share of the requests in flight, but at least three
    or those that one request may have.

    Only requests and the start add tokens. With a share of 0.2, the processes of a router together send at most 1.2
    attempts per request of the model, plus three or one per process, if every attempt fails. A share of 0 allows none.
    """

    TOKENS_PER_REQUEST = 0.2
    MIN_CAPACITY = 3.0
    SURPLUS = 3.0
    """Retries at the start, over all processes of the router; more if that is less than one for each."""

    __slots__ = ("_least", "available", "in_flight", "retries", "share")

    def __init__(self, share: float = TOKENS_PER_REQUEST, retries: int = 0, processes: int = 1) -> None:
        """`retries`: those that one request may have, if the model's entry says so. `processes`: of the router."""
        self.in_flight = 0
        self.available = max(self.SURPLUS / processes, 1.0, retries)
        """Retries that may be spent; less than 1 means none."""
        self.set_limits(share, retries)

    def __repr__(self) -> str:
        return f"<RetryBudget {self.available:.1f} available, {self.in_flight} in flight>"

    def set_limits(self, share: float, retries: int = 0) -> None:
        """Change the limits: what is available stays, up to the new capacity."""
        self.share = share
        self.retries = retries
        self._least = max(self.MIN_CAPACITY, retries) if share else 0.0
        self._cap()

    def begin_request(self) -> None:
        """Count a request in flight and add its share."""
        self.in_flight += 1
        if self.available < self._least or self.available < self.share * self.in_flight:
            self.available += self.share
            self._cap()

    def end_request(self) -> None:
        """Call once for each `begin_request`."""
        self.in_flight -= 1
        if self.available > self._least:
            self._cap()

    def try_spend(self) -> bool:
        """Return False if no retry is available."""
        if self.available < 1:
            return False
        self.available -= 1
        return True

    def _cap(self) -> None:
        self.available = min(self.available, max(self._least, self.share * self.in_flight))
