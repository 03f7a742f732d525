"""What several router processes know, put together for ops: one page out of each process's report. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from prometheus_client import generate_latest
from prometheus_client.core import Metric

from vllama_pool.router.telemetry.worker_view import WorkerView

STATES = ("ready", "sleeping", "draining", "starting", "restarting", "stopped", "down")
BREAKERS = ("closed", "half-open", "suspect", "open")
"""From well to worse. What is not listed is worse still."""
PROCESS = "process"
"""The label that tells the processes' metrics apart: a counter that starts again at 0 with its process must not
be hidden in a sum, which would seem to have started again as a whole."""


class Sample(msgspec.Struct, frozen=True, array_like=True):
    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric with all its samples."""

    name: str
    text: str
    kind: str
    samples: tuple[Sample, ...]


class ProcessReport(msgspec.Struct, frozen=True):
    """One process's part."""

    workers: tuple[WorkerView, ...]
    registry_up: bool
    families: tuple[Family, ...]


class Processes(msgspec.Struct, frozen=True):
    """How much of the router a page shows."""

    total: int = 1
    answered: int = 1


class WorkersPage(msgspec.Struct, frozen=True):
    """The body of `GET /admin/workers`."""

    workers: tuple[WorkerView, ...]
    registry_up: bool = True
    """Whether the registry answers every process; the workers are the last known ones otherwise."""
    processes: Processes = Processes()


@dataclass(frozen=True, slots=True)
class ProcessReports:
    """The reports of those processes that answered, by index; the one that was asked is always among them."""

    total: int
    by_process: Mapping[int, ProcessReport]


def workers_page(reports: ProcessReports) -> WorkersPage:
    """Each worker once, sorted by id: `in_flight` is the sum, state and breaker are the worst of all."""
    views: dict[str, list[WorkerView]] = {}
    for report in reports.by_process.values():
        for view in report.workers:
            views.setdefault(view.id, []).append(view)
    return WorkersPage(
        tuple(_merged(views[name]) for name in sorted(views)),
        all(report.registry_up for report in reports.by_process.values()),
        Processes(reports.total, len(reports.by_process)),
    )


def metrics_page(reports: ProcessReports) -> bytes:
    """The page for Prometheus (text format 0.0.4). Several processes are told apart by the label `process`, and
    `vllama_process_up` says which of them are on the page."""
    if reports.total == 1:
        (report,) = reports.by_process.values()
        return generate_latest(_Page(_metrics(report.families, {})))
    families: dict[str, list[Metric]] = {}
    for index, report in sorted(reports.by_process.items()):
        for metric in _metrics(report.families, {PROCESS: str(index)}):
            families.setdefault(metric.name, []).append(metric)
    up = Metric("vllama_process_up", "1 while the router process answers its siblings", "gauge")
    for index in range(reports.total):
        up.add_sample(up.name, {PROCESS: str(index)}, float(index in reports.by_process))
    return generate_latest(_Page([up, *(_joined(parts) for parts in families.values())]))


def families_of(metrics: Iterable[Metric]) -> tuple[Family, ...]:
    """What a Prometheus registry collects, as it is sent from process to process. Without the moments at which
    series were made: nobody asks for them, and they are as many as the series."""
    return tuple(
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            tuple(
                Sample(sample.name, dict(sample.labels), float(sample.value))
                for sample in metric.samples
                if not sample.name.endswith("_created")
            ),
        )
        for metric in metrics
    )


class _Page:
    """What `generate_latest` wants of a registry."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _metrics(families: Iterable[Family], labels: Mapping[str, str]) -> list[Metric]:
    metrics = []
    for family in families:
        metric = Metric(family.name, family.text, family.kind)
        for sample in family.samples:
            metric.add_sample(sample.name, {**sample.labels, **labels}, sample.value)
        metrics.append(metric)
    return metrics


def _joined(parts: Sequence[Metric]) -> Metric:
    first, *others = parts
    for other in others:
        first.samples.extend(other.samples)
    return first


def _merged(views: Sequence[WorkerView]) -> WorkerView:
    worst = max(views, key=lambda view: _badness(view.state, STATES))
    changes: dict[str, Any] = {
        "in_flight": sum(view.in_flight for view in views),
        "breaker": max((view.breaker for view in views), key=lambda breaker: _badness(breaker, BREAKERS)),
    }
    return msgspec.structs.replace(worst, **changes)


def _badness(word: str, order: Sequence[str]) -> int:
    return order.index(word) if word in order else len(order)
