"""The load of a worker, and whether it is full, as far as one router knows it. No I/O; time is passed in."""

from __future__ import annotations

import sys

from vllama_pool.router.balance.vacancies import Vacancies
from vllama_pool.workers.registry.record import LoadReport

FULL_KV_USAGE = 0.95
"""A worker with a queue in vLLM and a larger share of the KV cache in use is full, whatever its slots."""

REPORT_LAG = 1.0
"""Minimum time in seconds for which a report may still count requests that we have finished."""


class WorkerLoad:
    """Requests of this router and of others. A base of `Worker`, so that a choice reads them in one step."""

    __slots__ = (
        *("_answered_busy", "_busy", "_peak", "_peak_since", "_previous_peak"),
        *("full_at", "in_flight", "last_report", "others_load", "slots", "vacancies"),
    )

    def __init__(self, slots: int, now: float, vacancies: Vacancies) -> None:
        """`slots`: 0 if unknown. `vacancies`: told of each event that may make room."""
        self.slots = slots
        self.vacancies = vacancies
        self.last_report = LoadReport()
        self.in_flight = 0
        """Requests of this process."""
        self.others_load = 0
        """Requests of other routers, by the latest report."""
        self.full_at = slots or sys.maxsize
        """Full if `in_flight` is not less."""
        self._peak = self._previous_peak = 0  # of in_flight, in periods of REPORT_LAG
        self._peak_since = now
        self._answered_busy = False
        self._busy = False  # full whatever its load

    @property
    def load(self) -> int:
        """Requests of all routers: our own in flight, plus other routers' load.

        Other routers' load = reported load - our peak in flight over the last 1-2 s. We use the peak because the report
        lags: vLLM may still count requests that we have finished.
        """
        return self.in_flight + self.others_load

    @property
    def full(self) -> bool:
        """True if it has no free slot; with unknown slots, if its queue is not empty. Also true after a Busy response,
        until the next report or success."""
        return self.in_flight >= self.full_at

    @property
    def has_room(self) -> bool:
        """True if it may get a request that could also wait in the router.

        A tenth more than the slots keeps its batch full while the next requests are on their way. With unknown slots,
        or a full KV cache, nothing may wait in vLLM. The router's share of the slots is its own even if other routers
        fill them all: they then get fewer, and none of them starves. After a Busy answer, one request at a time tries.
        """
        if self._busy:
            return not (self.in_flight or self.last_report.waiting)
        most = -(-self.slots * 11 // 10)
        if not most or self.in_flight + self.others_load < most:
            return True
        return self.in_flight < max(1, most // max(2, self.vacancies.sharers))

    @property
    def answered_busy(self) -> bool:
        """True after a Busy response, until the next report or success."""
        return self._answered_busy

    @property
    def beyond_slots(self) -> int:
        """Load minus slots; negative for free slots. With unknown slots: the length of its queue, or -1 if empty."""
        return self.load - self.slots if self.slots else self.last_report.waiting or -1

    def end_request(self) -> None:
        self.in_flight -= 1
        if self.vacancies.watched:
            self.vacancies.note()

    # called by the worker

    def _set_slots(self, slots: int) -> None:
        self.slots = slots
        self._update_full()
        self._note_vacancy()

    def _set_report(self, report: LoadReport, now: float) -> None:
        """Take the report as the latest one."""
        self.last_report = report
        self._answered_busy = False
        if now - self._peak_since >= REPORT_LAG:
            self._previous_peak, self._peak, self._peak_since = self._peak, self.in_flight, now
        self.others_load = max(0, report.running + report.waiting - max(self._peak, self._previous_peak))
        self._update_full()

    def _set_answered_busy(self, answered_busy: bool) -> None:
        self._answered_busy = answered_busy
        self._update_full()

    def _update_full(self) -> None:
        report = self.last_report
        queues = report.waiting > 0 and (not self.slots or report.kv_usage >= FULL_KV_USAGE)
        self._busy = self._answered_busy or queues
        self.full_at = 0 if self._busy else self.slots - self.others_load if self.slots else sys.maxsize

    def _note_vacancy(self) -> None:
        if self.vacancies.watched:
            self.vacancies.note()
