"""Merging of reports: each worker once, each metric once with a process label."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from vllama_pool.router.telemetry.aggregate import (
    Processes,
    ProcessReport,
    ProcessReports,
    WaitingRequests,
    metrics_page,
    workers_page,
)
from vllama_pool.router.telemetry.families import BUCKETS, Family, Histogram, exposition
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
    return ProcessReport(workers, registry_up, counted(requests))


def counted(requests: int) -> list[Family]:
    return [
        Family("vllama_requests_total", "Finished requests.", "counter", ("model",), {("m",): requests}),
        Family("vllama_registry_up", "1 while the registry answers.", "gauge", (), {(): 1.0}),
    ]


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


def test_the_page_has_the_models_in_a_panic_of_any_process() -> None:
    one, two = (msgspec.structs.replace(report(), panics=panics) for panics in (("n", "m"), ("m",)))
    assert workers_page(ProcessReports(2, {0: one, 1: two})).panics == ("m", "n")


def test_the_page_sums_the_requests_that_wait_in_all_processes_by_model() -> None:
    first = ProcessReport((), True, [], waiting=(WaitingRequests("n", 1), WaitingRequests("m", 2)))
    second = ProcessReport((), True, [], waiting=(WaitingRequests("m", 3, absent=True),))
    page = workers_page(ProcessReports(3, {0: first, 1: second, 2: report(worker())}))
    assert page.waiting == (WaitingRequests("m", 5, absent=True), WaitingRequests("n", 1))


def test_metrics_of_one_process_have_no_process_label() -> None:
    assert metrics_page(ProcessReports(1, {0: report(requests=4)})) == exposition(counted(4))


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


def test_histograms_and_escaped_label_values_survive_the_exchange_and_the_merge() -> None:
    name = 'a "quoted" \\ name\n'
    counts = [0] * len(BUCKETS) + [2]
    durations = Family(
        "vllama_request_seconds", "Duration.", "histogram", ("model",), {(name,): Histogram(counts, 5.5)}
    )
    sent = msgspec.msgpack.encode(ProcessReport((), True, [durations]))
    received = msgspec.msgpack.decode(sent, type=ProcessReport)
    page = metrics_page(ProcessReports(2, {0: received, 1: received}))
    samples = {
        (sample.name, sample.labels.get("le"), sample.labels["model"], sample.labels["process"]): sample.value
        for family in text_string_to_metric_families(page)
        if family.name == "vllama_request_seconds"
        for sample in family.samples
    }
    assert len(samples) == 2 * (len(BUCKETS) + 3)
    for process in "01":
        assert samples["vllama_request_seconds_bucket", "600.0", name, process] == 0
        assert samples["vllama_request_seconds_bucket", "+Inf", name, process] == 2
        assert samples["vllama_request_seconds_sum", None, name, process] == 5.5
