"""Growing pauses between retries of background work."""

from __future__ import annotations

import math

from tenacity import AsyncRetrying, RetryCallState
from tenacity.wait import wait_base, wait_exponential, wait_random_exponential

__all__ = ["Backoff", "wait_base", "wait_exponential", "wait_random_exponential"]


class Backoff:
    def __init__(self, wait: wait_base, settled: float = math.inf) -> None:
        """`settled`: seconds of success after which the count of failures is reset."""
        self._wait = wait
        self._settled = settled
        self.failures = 0

    def pause(self, succeeded_for: float = 0.0) -> float:
        """Count a failure and return the pause in seconds. `succeeded_for` is in seconds."""
        if succeeded_for >= self._settled:
            self.failures = 0
        self.failures += 1
        state = RetryCallState(retry_object=AsyncRetrying(), fn=None, args=(), kwargs={})
        state.attempt_number = self.failures
        return self._wait(state)

    def reset(self) -> None:
        self.failures = 0
