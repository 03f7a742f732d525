"""The bound on a worker's load under policies that send equal requests to the same worker."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vllama_pool.router.balance.worker import Worker

DEFAULT_BOUND = 1.25
"""Times the mean load of the candidates."""


class LoadBound:
    """Tells which candidates may get one more request. Made for one choice; sums the loads only if it has to."""

    __slots__ = ("_bound", "_candidates", "_limit", "_now", "_some_free")

    def __init__(self, candidates: Sequence[Worker], bound: float, now: float) -> None:
        self._candidates = candidates
        self._bound = bound
        self._now = now
        self._limit = 0
        self._some_free: bool | None = None

    @property
    def limit(self) -> int:
        """The largest load of a worker, including the request: the bound times the mean, rounded up."""
        if not self._limit:
            total = 1 + sum(worker.load for worker in self._candidates)
            self._limit = math.ceil(self._bound * total / len(self._candidates))
        return self._limit

    def admits(self, worker: Worker) -> bool:
        """False if the worker is failing, full while another is not, or would exceed the limit."""
        if worker.troubled and worker.health.penalty(self._now) > 1:
            return False
        if worker.full and self.some_free:
            return False
        load = worker.load
        return not load or load < self.limit

    def is_overloaded(self, worker: Worker) -> bool:
        """True if the worker is full, and refuses requests or would exceed the limit."""
        return worker.full and (worker.answered_busy or worker.load >= self.limit)

    @property
    def some_free(self) -> bool:
        if self._some_free is None:
            self._some_free = not all(worker.full for worker in self._candidates)
        return self._some_free
