"""Merging of reports: each worker once, each metric once with a process label."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from vllama_pool.router.telemetry.aggregate import (
    Processes,
    ProcessReport,
    ProcessReports,
    metrics_page,
    metrics_text,
    workers_page,
)
from vllama_pool.router.telemetry.worker_view import WorkerView


def worker(**changes: Any) -> WorkerView:
    fields: dict[str, Any] = {
        "id": "w",
        "url": "http://h:1",
        "state": "ready",
        "models": ("m",),
        "running": 1,
        "waiting": 0,
        "in_flight": 0,
        "slots": 8,
        "kv_usage": 0.0,
        "tokens_per_second": 0.0,
        "restarts": 0,
        "note": "",
        "breaker": "closed",
        "engine": "vllm",
        "engine_version": "",
        "speed": 1.0,
    }
    return WorkerView(**{**fields, **changes})


def report(*workers: WorkerView, requests: int = 0, registry_up: bool = True) -> ProcessReport:
    return ProcessReport(workers, registry_up, metrics_text(list(counted(requests).collect())))


def counted(requests: int) -> CollectorRegistry:
    registry = CollectorRegistry()
    counter = Counter("vllama_requests", "requests that have ended", ["model"], registry=registry)
    counter.labels("m").inc(requests)
    Gauge("vllama_registry_up", "1 while the registry answers", registry=registry).set(1)
    return registry


def test_in_flight_is_the_sum_over_processes() -> None:
    page = workers_page(ProcessReports(2, {0: report(worker(in_flight=2)), 1: report(worker(in_flight=3))}))
    assert [(view.id, view.in_flight) for view in page.workers] == [("w", 5)]
    assert page.processes == Processes(2, 2)


@pytest.mark.parametrize(
    ("states", "worst"),
    [(("ready", "down"), "down"), (("restarting", "ready"), "restarting"), (("new", "ready"), "new")],
)
def test_the_worst_state_over_processes_is_shown_with_its_note(states: tuple[str, str], worst: str) -> None:
    views = [worker(state=state, note=f"it is {state}") for state in states]
    (view,) = workers_page(ProcessReports(2, dict(enumerate(map(report, views))))).workers
    assert (view.state, view.note) == (worst, f"it is {worst}")


def test_the_worst_breaker_over_processes_is_shown() -> None:
    (view,) = workers_page(
        ProcessReports(2, {0: report(worker(breaker="open")), 1: report(worker(breaker="half-open"))})
    ).workers
    assert view.breaker == "open"


def test_a_worker_known_to_one_process_only_is_shown() -> None:
    page = workers_page(ProcessReports(2, {0: report(worker(id="b")), 1: report(worker(id="a"), worker(id="b"))}))
    assert [view.id for view in page.workers] == ["a", "b"]


def test_the_page_counts_missing_processes_and_reports_a_lost_registry() -> None:
    page = workers_page(ProcessReports(3, {0: report(), 2: report(registry_up=False)}))
    assert page.processes == Processes(total=3, answered=2)
    assert not page.registry_up


def test_the_page_has_the_problem_of_the_first_process_without_a_registry() -> None:
    lost = msgspec.structs.replace(report(registry_up=False), registry_problem="no answer")
    assert workers_page(ProcessReports(2, {0: report(), 1: lost})).registry_problem == "no answer"


def test_metrics_of_one_process_are_unchanged() -> None:
    registry = counted(4)
    expected = [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]
    assert metrics_page(ProcessReports(1, {0: report(requests=4)})).splitlines() == expected


def test_metrics_of_several_processes_have_a_process_label_and_each_family_once() -> None:
    page = metrics_page(ProcessReports(3, {0: report(requests=4), 2: report(requests=7)}))
    assert page.count("# TYPE vllama_requests_total counter") == 1
    samples = {
        (sample.name, sample.labels["process"]): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert samples["vllama_requests_total", "0"] == 4
    assert samples["vllama_requests_total", "2"] == 7
    assert [samples["vllama_process_up", index] for index in "012"] == [1, 0, 1]


def test_histograms_and_escaped_label_values_survive_the_merge() -> None:
    registry = CollectorRegistry()
    name = 'a "quoted" \\ name\n'
    Histogram("vllama_request_seconds", "Duration.", ["model"], buckets=(1, 10), registry=registry).labels(
        name
    ).observe(5)
    one = ProcessReport((), True, metrics_text(list(registry.collect())))
    page = metrics_page(ProcessReports(2, {0: one, 1: one}))
    samples = [
        (sample.name, sample.labels.get("le"), sample.labels["model"], sample.labels["process"], sample.value)
        for family in text_string_to_metric_families(page)
        if family.name == "vllama_request_seconds"
        for sample in family.samples
    ]
    assert len(samples) == 10
    for process in "01":
        assert ("vllama_request_seconds_bucket", "1.0", name, process, 0) in samples
        assert ("vllama_request_seconds_bucket", "10.0", name, process, 1) in samples
        assert ("vllama_request_seconds_sum", None, name, process, 5) in samples
