"""The limit on the requests in progress of an API key or a team."""

from __future__ import annotations

from collections.abc import Callable

from vllama_pool.router.admission.queue import UNLIMITED, AdmissionQueue, QueueLimits
from vllama_pool.router.errors import ClientError, TooManyRequests


class Cap(AdmissionQueue):
    """A queue without waiting places.

    A client over its own limit gets a 429, not Ollama's 503: the server is not busy, and SDKs and load balancers tell
    the two apart. It does not wait, because its requests would take places from other clients.
    """

    def __init__(self, holder: str, clock: Callable[[], float]) -> None:
        """`holder`: for messages, such as "the team 'blue'"."""
        super().__init__(UNLIMITED, clock)
        self._holder = holder
        self._limit = 0

    def __repr__(self) -> str:
        return f"<Cap of {self._holder}: {self.in_progress} in progress>"

    def set_limit(self, limit: int | None, share: int | None) -> None:
        """`limit`: of all router processes; `share`: of this one. None for any number."""
        self._limit = limit or 0
        self.set_limits(QueueLimits(share, 0))

    def busy(self) -> ClientError:
        return TooManyRequests(
            f"too many requests at once: {self._holder} may have {self._limit} in progress; wait until one ends",
            retry_after=self.retry_after(),
            code="rate_limit_exceeded",
        )
