"""Compares the counts of requests in flight with the requests that exist, and corrects counts that are wrong.

Each lease has one owner, which releases it on every path. A lease whose owner is gone would count for ever: its worker
would look busier than it is, and a half-open breaker would wait for its probe. A count is lowered if two signs agree:
nobody owns the lease, and the worker's reports do not have the request either.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

from vllama_pool.router.balance.drift import Excess
from vllama_pool.router.balance.lease import Lease
from vllama_pool.router.balance.worker import Worker
from vllama_pool.router.telemetry.lease_metrics import LeaseMetrics

INTERVAL = 1.0
"""Seconds between two looks."""

_log = logging.getLogger(__name__)


class Holder(Protocol):
    """A request, or a part of one, that was given a lease."""

    @property
    def lease(self) -> Lease: ...

    @property
    def owned(self) -> bool:
        """False if nobody is left who would close it."""

    def close(self) -> None:
        """Release everything. Idempotent."""


class LeaseAudit:
    """One per router process."""

    def __init__(
        self,
        workers: Iterable[Worker],
        holders: Callable[[], Iterable[Holder]],
        others: Callable[[], Iterable[Lease]],
        metrics: LeaseMetrics,
    ) -> None:
        """`holders`: all that are not closed. `others`: leases that have an owner of another kind."""
        self._workers = workers
        self._holders = holders
        self._others = others
        self._metrics = metrics
        self._excess: dict[str, Excess] = {}  # of workers with leases that nobody owns

    def __repr__(self) -> str:
        return f"<LeaseAudit, {len(self._excess)} workers in doubt>"

    async def run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            self.look()

    def look(self) -> None:
        """Correct what is certain, and note the rest."""
        owned, orphans = self._count()
        drifts: dict[str, int] = {}
        excess: dict[str, Excess] = {}
        for worker in self._workers:
            drift = worker.in_flight - owned[worker]
            if drift < 0:
                worker.correct_in_flight(owned[worker])
            elif drift > 0:
                doubt = excess[worker.id] = self._excess.get(worker.id) or Excess()
                if leaked := min(drift, doubt.look(worker)):
                    self._release(worker, leaked, orphans)
                drifts[worker.id] = worker.in_flight - owned[worker]
        self._excess = excess
        self._metrics.drifts = drifts

    def _count(self) -> tuple[Counter[Worker], list[Holder]]:
        """Return the leases in use by worker, and the holders without an owner."""
        owned, orphans = Counter[Worker](), list[Holder]()
        for holder in self._holders():
            if holder.owned:
                owned[holder.lease.worker] += 1
            else:
                orphans.append(holder)
        for lease in self._others():
            owned[lease.worker] += 1
        return owned, orphans

    def _release(self, worker: Worker, leaked: int, orphans: list[Holder]) -> None:
        """Release so many of the leases that nobody owns: first those that can be found."""
        right = worker.in_flight - leaked
        for holder in orphans:
            if holder.lease.worker is worker and worker.in_flight > right:
                holder.close()
        self._metrics.released += leaked
        _log.warning("worker %s: %d requests that had ended still counted; the count is corrected", worker.id, leaked)
        worker.correct_in_flight(right)
