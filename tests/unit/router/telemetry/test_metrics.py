"""Metrics of requests and workers, and their labels."""

import random
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from tests.support.balance import Clock, found, pool_of
from vllama_pool.router.admission.queue import AdmissionQueue, QueueLimits
from vllama_pool.router.telemetry.families import BUCKETS, exposition
from vllama_pool.router.telemetry.metrics import Readings, RouterMetrics
from vllama_pool.router.telemetry.request_record import Fallback, RequestRecord


def page(*records: RequestRecord, queues: Sequence[tuple[str, AdmissionQueue]] = ()) -> list[str]:
    clock = Clock()
    readings = Readings(
        workers=pool_of(clock, found("a", slots=4)),
        now=clock,
        registry_up=lambda: True,
        refused_records=lambda: 2,
        dropped_log_lines=lambda: 3,
        queues=lambda: queues,
    )
    metrics = RouterMetrics(readings)
    for record in records:
        metrics.finished(record)
    return exposition(metrics.families()).splitlines()


def done(**more: object) -> RequestRecord:
    known = {"id": "1", "operation": "chat", "model": "m", "status": 200, "outcome": "complete", "completion_tokens": 7}
    return RequestRecord(**{**known, **more})  # type: ignore[arg-type]


def test_requests_attempts_and_tokens_are_counted() -> None:
    lines = page(done(), done(failures=["Lost", "Busy"]))
    assert 'vllama_requests_total{model="m",operation="chat",status="200"} 2.0' in lines
    assert 'vllama_attempt_failures_total{kind="Lost"} 1.0' in lines
    assert 'vllama_tokens_total{kind="completion",model="m",outcome="complete"} 14.0' in lines


def test_moves_to_other_models_are_counted_by_reason() -> None:
    moves = (Fallback("overloaded", "b"), Fallback("error", "c", 1))
    lines = page(done(fallbacks=moves), done(fallbacks=moves[:1]))
    assert 'vllama_fallbacks_total{model="m",reason="overloaded",target="b"} 2.0' in lines
    assert 'vllama_fallbacks_total{model="m",reason="error",target="c"} 1.0' in lines


@pytest.mark.parametrize("outcome", ["client gone", "lost", "failed", "client stalled", "cancelled"])
def test_tokens_of_unfinished_answers_are_counted_under_their_outcome(outcome: str) -> None:
    lines = page(done(outcome=outcome, prompt_tokens=3))
    assert f'vllama_tokens_total{{kind="completion",model="m",outcome="{outcome}"}} 7.0' in lines
    assert f'vllama_tokens_total{{kind="prompt",model="m",outcome="{outcome}"}} 3.0' in lines


def test_tokens_of_attempts_that_gave_no_answer_are_counted_as_discarded() -> None:
    lines = page(done(discarded_tokens=5))
    assert 'vllama_tokens_total{kind="completion",model="m",outcome="complete"} 7.0' in lines
    assert 'vllama_tokens_total{kind="completion",model="m",outcome="discarded"} 5.0' in lines


def test_requests_are_counted_by_key_and_those_without_one_together() -> None:
    refused = done(model="", status=404, outcome="refused", completion_tokens=0)
    lines = page(done(client="anna", team="blue"), done(), done(), refused)
    assert 'vllama_key_requests_total{key="anna",team="blue"} 1.0' in lines
    assert 'vllama_key_tokens_total{key="anna",kind="completion",team="blue"} 7.0' in lines
    assert 'vllama_key_requests_total{key="",team=""} 3.0' in lines
    assert 'vllama_key_tokens_total{key="",kind="completion",team=""} 14.0' in lines
    assert 'vllama_key_errors_total{class="refused",key="",team=""} 1.0' in lines


def test_an_unknown_model_name_is_not_a_label() -> None:
    lines = page(done(model="", requested="made-up", status=404, outcome="refused"))
    assert 'vllama_requests_total{model="unknown",operation="chat",status="404"} 1.0' in lines
    assert not any("made-up" in line for line in lines)


def test_the_page_has_no_created_series() -> None:
    assert not any("_created" in line for line in page(done(first_ms=5.0)))


def test_values_read_at_scrape_time_are_on_the_page() -> None:
    lines = page()
    assert 'vllama_worker_up{worker="a"} 1.0' in lines
    assert 'vllama_worker_slots{worker="a"} 4.0' in lines
    assert "vllama_registry_up 1.0" in lines
    assert "vllama_refused_records_total 2.0" in lines
    assert "vllama_dropped_log_lines_total 3.0" in lines


def test_queues_and_the_time_in_them_are_shown_by_model() -> None:
    queue = AdmissionQueue(QueueLimits(1, 5), Clock())
    for _ in range(3):
        queue.enter()
    lines = page(done(queue_ms=40.0), done(), queues=[("m", queue)])
    assert 'vllama_queue_waiting{model="m"} 2.0' in lines
    assert 'vllama_queue_in_progress{model="m"} 1.0' in lines
    assert 'vllama_queue_seconds_count{model="m"} 1.0' in lines
    assert 'vllama_queue_seconds_sum{model="m"} 0.04' in lines


def test_refusals_are_counted_by_reason_and_shown_from_the_start() -> None:
    readings = Readings(
        workers=pool_of(Clock()),
        now=Clock(),
        registry_up=lambda: True,
        refused_records=lambda: 0,
        dropped_log_lines=lambda: 0,
    )
    metrics = RouterMetrics(readings, ("host", "origin"))
    metrics.refused("host")
    lines = exposition(metrics.families()).splitlines()
    assert 'vllama_refusals_total{reason="host"} 1.0' in lines
    assert 'vllama_refusals_total{reason="origin"} 0.0' in lines


def test_durations_are_counted_in_buckets_and_only_those_that_were_measured() -> None:
    lines = page(done(first_ms=5.0, total_ms=600_000.5), done(first_ms=6.0, outcome="lost"))
    assert 'vllama_first_event_seconds_bucket{le="0.005",model="m"} 1.0' in lines
    assert 'vllama_first_event_seconds_bucket{le="0.01",model="m"} 2.0' in lines
    assert 'vllama_first_event_seconds_sum{model="m"} 0.011' in lines
    assert 'vllama_request_seconds_bucket{le="600.0",model="m"} 0.0' in lines
    assert 'vllama_request_seconds_bucket{le="+Inf",model="m"} 1.0' in lines
    assert not any(line.startswith("vllama_request_seconds_") for line in page(done(outcome="lost")))


def test_requests_are_added_up_over_outcomes_and_statuses() -> None:
    lines = page(done(), done(outcome="lost"), done(status=500, outcome="lost"))
    assert 'vllama_requests_total{model="m",operation="chat",status="200"} 2.0' in lines
    assert 'vllama_outcomes_total{operation="chat",outcome="lost"} 2.0' in lines


@pytest.mark.parametrize("seed", range(5))
def test_the_page_is_that_of_prometheus_clients_counters_and_histograms(seed: int) -> None:
    rng = random.Random(seed)
    records = [
        done(
            operation=rng.choice(["chat", "embed"]),
            model=rng.choice(["", "m", 'a "quoted" \\ name\n', "ä"]),
            status=rng.choice([200, 404, 503]),
            outcome=rng.choice(["complete", "refused", "client gone"]),
            failures=rng.choices(["Lost", "Busy"], k=rng.choice([0, 0, 2])),
            prompt_tokens=rng.choice([0, 7, 1_000_000]),
            completion_tokens=rng.choice([0, 3]),
            discarded_tokens=rng.choice([0, 0, 5]),
            first_ms=rng.choice([0.0, 15.625, 250.0, 700_000.0]),
            total_ms=rng.choice([62.5, 125.0, 2500.0]),
        )
        for _ in range(200)
    ]
    expected = prometheus_page(records)
    counted = {line.split(" ")[2] for line in expected if line.startswith("#")}
    lines = [line for line in page(*records) if any(name in line for name in counted)]
    assert sorted(lines) == sorted(expected)


def prometheus_page(records: Sequence[RequestRecord]) -> list[str]:
    """Count the same records with prometheus_client."""
    registry = CollectorRegistry()
    requests = Counter("vllama_requests", "Finished requests.", ["operation", "model", "status"], registry=registry)
    failures = Counter("vllama_attempt_failures", "Failed attempts.", ["kind"], registry=registry)
    first = Histogram(
        "vllama_first_event_seconds",
        "Time from a request's arrival to its first content event.",
        ["model"],
        buckets=BUCKETS,
        registry=registry,
    )
    total = Histogram(
        "vllama_request_seconds", "Duration of completed requests.", ["model"], buckets=BUCKETS, registry=registry
    )
    for record in records:
        model = record.model or "unknown"
        requests.labels(record.operation, model, record.status).inc()
        for kind in record.failures:
            failures.labels(kind).inc()
        if record.first_ms:
            first.labels(model).observe(record.first_ms / 1000)
        if record.outcome == "complete":
            total.labels(model).observe(record.total_ms / 1000)
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]
