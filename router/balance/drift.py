"""Leases without an owner, as far as the worker's own reports confirm them. Pure.

A worker's `running + waiting` counts the requests of all routers and of clients that call it directly, and may lag
behind our count. It shows one thing only: requests of this router that no recent report has had.
"""

from __future__ import annotations

from vllama_pool.router.balance.worker import Worker

CONFIRM_FOR = 10.0
"""Seconds for which each report must count less than this router does."""
CONFIRM_REPORTS = 5
"""Reports in that time at least."""


class Excess:
    """By how much this router's count of a worker's requests exceeds the worker's own, in all of its reports."""

    __slots__ = ("_latest", "_least", "_reports", "_since")

    def __init__(self) -> None:
        self._latest: float | None = None
        self._since = 0.0
        self._reports = 0
        self._least = 0

    def __repr__(self) -> str:
        return f"<Excess of {self._least} in {self._reports} reports>"

    def look(self, worker: Worker) -> int:
        """Take the latest report into account. Return the confirmed excess, in requests; 0 for none or not yet.

        A confirmed excess is told once; it then has to be confirmed anew.
        """
        reported_at, load = worker.reported_at, worker.last_report
        if reported_at is None or reported_at == self._latest:
            return 0
        self._latest = reported_at
        excess = worker.in_flight - load.running - load.waiting
        if excess <= 0:
            self._reports = 0
            return 0
        if not self._reports:
            self._since, self._least = reported_at, excess
        self._reports += 1
        self._least = min(self._least, excess)
        if reported_at - self._since < CONFIRM_FOR or self._reports < CONFIRM_REPORTS:
            return 0
        self._reports = 0
        return self._least
