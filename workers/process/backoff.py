"""Pauses between retries of background work: they grow with each failure in a row."""

from __future__ import annotations

import math

from tenacity import AsyncRetrying, RetryCallState
from tenacity.wait import wait_base, wait_exponential, wait_random_exponential

__all__ = ["Backoff", "wait_base", "wait_exponential", "wait_random_exponential"]


class Backoff:
    """Counts failures in a row and turns them into pauses by one of tenacity's wait strategies."""

    def __init__(self, wait: wait_base, settled: float = math.inf) -> None:
        """`settled`: seconds of success after which a failure counts as the first one again."""
        self._wait = wait
        self._settled = settled
        self.failures = 0
        """Failures in a row."""

    def pause(self, succeeded_for: float = 0.0) -> float:
        """Return the seconds to wait after one more failure, `succeeded_for` seconds after the last start."""
        if succeeded_for >= self._settled:
            self.failures = 0
        self.failures += 1
        state = RetryCallState(retry_object=AsyncRetrying(), fn=None, args=(), kwargs={})
        state.attempt_number = self.failures
        return self._wait(state)

    def reset(self) -> None:
        self.failures = 0
