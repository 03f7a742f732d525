"""Metrics of requests and workers, and their labels."""

import pytest

from tests.support.balance import Clock, found, pool_of
from vllama_pool.router.telemetry.metrics import Readings, RouterMetrics
from vllama_pool.router.telemetry.request_record import RequestRecord


def page(*records: RequestRecord) -> list[str]:
    clock = Clock()
    readings = Readings(
        workers=pool_of(clock, found("a", slots=4)),
        now=clock,
        registry_up=lambda: True,
        refused_records=lambda: 2,
        dropped_log_lines=lambda: 3,
    )
    metrics = RouterMetrics(readings)
    for record in records:
        metrics.finished(record)
    return metrics.text().splitlines()


def done(**more: object) -> RequestRecord:
    known = {"id": "1", "operation": "chat", "model": "m", "status": 200, "outcome": "complete", "completion_tokens": 7}
    return RequestRecord(**{**known, **more})  # type: ignore[arg-type]


def test_requests_attempts_and_tokens_are_counted() -> None:
    lines = page(done(), done(failures=["Lost", "Busy"]))
    assert 'vllama_requests_total{model="m",operation="chat",status="200"} 2.0' in lines
    assert 'vllama_attempt_failures_total{kind="Lost"} 1.0' in lines
    assert 'vllama_tokens_total{kind="completion",model="m",outcome="complete"} 14.0' in lines


@pytest.mark.parametrize("outcome", ["client gone", "lost", "failed", "client stalled", "cancelled"])
def test_tokens_of_unfinished_answers_are_counted_under_their_outcome(outcome: str) -> None:
    lines = page(done(outcome=outcome, prompt_tokens=3))
    assert f'vllama_tokens_total{{kind="completion",model="m",outcome="{outcome}"}} 7.0' in lines
    assert f'vllama_tokens_total{{kind="prompt",model="m",outcome="{outcome}"}} 3.0' in lines


def test_tokens_of_attempts_that_gave_no_answer_are_counted_as_discarded() -> None:
    lines = page(done(discarded_tokens=5))
    assert 'vllama_tokens_total{kind="completion",model="m",outcome="complete"} 7.0' in lines
    assert 'vllama_tokens_total{kind="completion",model="m",outcome="discarded"} 5.0' in lines


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
    lines = metrics.text().splitlines()
    assert 'vllama_refusals_total{reason="host"} 1.0' in lines
    assert 'vllama_refusals_total{reason="origin"} 0.0' in lines
