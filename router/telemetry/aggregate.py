"""Merges the reports of all router processes into one page. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from vllama_pool.router.balance.worker import DRAINING_ASKED
from vllama_pool.router.telemetry.families import Family, exposition, merged
from vllama_pool.router.telemetry.routing_file import RoutingFileState, routing_states
from vllama_pool.router.telemetry.worker_view import WorkerView

STATES = ("ready", "sleeping", DRAINING_ASKED, "draining", "starting", "restarting", "stopped", "set aside", "down")
"""Best to worst. Unlisted states rank last."""
BREAKERS = ("closed", "half-open", "suspect", "silent", "open")
"""Best to worst. Unlisted ones rank last."""
PROCESS = "process"
"""Label with the process index. Summed counters would reset whenever one process restarts."""


class RefusedRequest(msgspec.Struct, frozen=True):
    """A request that is refused because it crashes engines."""

    digest: str
    evidence: str
    seconds: float
    """Until it is accepted again."""


class WaitingRequests(msgspec.Struct, frozen=True):
    """Requests of a model that wait in the router."""

    model: str
    requests: int
    absent: bool = False
    """True if some wait because the model has no healthy worker."""


class ProcessReport(msgspec.Struct, frozen=True):
    workers: tuple[WorkerView, ...]
    registry_up: bool
    metrics: list[Family]
    registry_problem: str = ""
    routing_file: RoutingFileState | None = None
    """None without one."""
    drained: tuple[str, ...] = ()
    """Ids of the workers that operators drain, present or not."""
    panics: tuple[str, ...] = ()
    """Models of which so few workers are healthy that breakers are ignored."""
    refused: tuple[RefusedRequest, ...] = ()
    waiting: tuple[WaitingRequests, ...] = ()


class Processes(msgspec.Struct, frozen=True):
    total: int = 1
    answered: int = 1


class WorkersPage(msgspec.Struct, frozen=True):
    """The body of `GET /admin/workers`."""

    workers: tuple[WorkerView, ...]
    registry_up: bool = True
    """False if a process cannot reach the registry."""
    processes: Processes = Processes()
    registry_problem: str = ""
    """Why; of the first such process."""
    routing_file: dict[str, RoutingFileState] = {}
    """By the names of the processes."""
    drained_absent: tuple[str, ...] = ()
    """Ids of drained workers that no process knows now."""
    panics: tuple[str, ...] = ()
    """Models for which a process ignores breakers, as less than half of their workers are healthy."""
    refused: tuple[RefusedRequest, ...] = ()
    """Of all processes."""
    waiting: tuple[WaitingRequests, ...] = ()
    """In all processes together, by model."""


@dataclass(frozen=True, slots=True)
class ProcessReports:
    """Reports by process index, of those that answered."""

    total: int
    by_process: Mapping[int, ProcessReport]


def workers_page(reports: ProcessReports) -> WorkersPage:
    """Merge workers by id: `in_flight` is summed; state and breaker are the worst."""
    views: dict[str, list[WorkerView]] = {}
    for report in reports.by_process.values():
        for view in report.workers:
            views.setdefault(view.id, []).append(view)
    return WorkersPage(
        tuple(_merge_views(views[name]) for name in sorted(views)),
        all(report.registry_up for report in reports.by_process.values()),
        Processes(reports.total, len(reports.by_process)),
        next((report.registry_problem for report in reports.by_process.values() if report.registry_problem), ""),
        routing_files(reports),
        tuple(sorted({one for report in reports.by_process.values() for one in report.drained} - views.keys())),
        tuple(sorted({name for report in reports.by_process.values() for name in report.panics})),
        tuple({one.digest: one for report in reports.by_process.values() for one in report.refused}.values()),
        _sum_waiting(each for report in reports.by_process.values() for each in report.waiting),
    )


def _sum_waiting(waiting: Iterable[WaitingRequests]) -> tuple[WaitingRequests, ...]:
    sums: dict[str, WaitingRequests] = {}
    for each in waiting:
        before = sums.get(each.model, WaitingRequests(each.model, 0))
        absent = before.absent or each.absent
        sums[each.model] = WaitingRequests(each.model, before.requests + each.requests, absent)
    return tuple(sums[model] for model in sorted(sums))


def routing_files(reports: ProcessReports) -> dict[str, RoutingFileState]:
    return routing_states({index: report.routing_file for index, report in reports.by_process.items()})


def metrics_page(reports: ProcessReports) -> str:
    """Return Prometheus's page. With several processes, samples have the label `process`."""
    if reports.total == 1:
        (report,) = reports.by_process.values()
        return exposition(report.metrics)
    up = Family("vllama_process_up", "1 if the router process answered its sibling.", "gauge", (PROCESS,))
    up.series = {(str(index),): index in reports.by_process for index in range(reports.total)}
    processes = sorted(reports.by_process.items())
    return exposition([up, *merged(((str(index), report.metrics) for index, report in processes), PROCESS)])


def _merge_views(views: Sequence[WorkerView]) -> WorkerView:
    worst = max(views, key=lambda view: _rank(view.state, STATES))
    changes: dict[str, Any] = {
        "in_flight": sum(view.in_flight for view in views),
        "breaker": max((view.breaker for view in views), key=lambda breaker: _rank(breaker, BREAKERS)),
    }
    return msgspec.structs.replace(worst, **changes)


def _rank(state: str, order: Sequence[str]) -> int:
    return order.index(state) if state in order else len(order)
