"""Counts of each API key's requests."""

from __future__ import annotations

import pytest

from vllama_pool.router.telemetry.families import exposition
from vllama_pool.router.telemetry.request_record import RequestRecord
from vllama_pool.router.telemetry.usage import ERROR_CLASSES, Usage, UsageByKey, error_class


def done(client: str = "anna", team: str = "blue", **more: object) -> RequestRecord:
    known = {"id": "1", "operation": "chat", "status": 200, "outcome": "complete", "client": client, "team": team}
    return RequestRecord(**{**known, **more})  # type: ignore[arg-type]


def lines(usage: UsageByKey) -> list[str]:
    return [line for line in exposition(usage.families()).splitlines() if not line.startswith("#")]


def test_requests_and_tokens_are_counted_by_team_and_key() -> None:
    usage = UsageByKey()
    for _ in range(2):
        usage.finished(done(prompt_tokens=3, completion_tokens=7))
    usage.finished(done("bob", team="", prompt_tokens=1))
    found = lines(usage)
    assert 'vllama_key_requests_total{key="anna",team="blue"} 2.0' in found
    assert 'vllama_key_tokens_total{key="anna",kind="prompt",team="blue"} 6.0' in found
    assert 'vllama_key_tokens_total{key="anna",kind="completion",team="blue"} 14.0' in found
    assert 'vllama_key_requests_total{key="bob",team=""} 1.0' in found


def test_anonymous_requests_are_those_without_a_key_and_have_empty_labels() -> None:
    usage, finished = UsageByKey(), Usage()
    usage.finished(done(prompt_tokens=3, status=429, outcome="refused"))
    finished.requests, finished.prompt_tokens, finished.completion_tokens = 3, 5, 7
    finished.errors.update(limited=1, server=1)
    usage.set_anonymous(finished)
    found = [line for line in lines(usage) if 'key=""' in line]
    assert found == [
        'vllama_key_requests_total{key="",team=""} 2.0',
        'vllama_key_tokens_total{key="",kind="prompt",team=""} 2.0',
        'vllama_key_tokens_total{key="",kind="completion",team=""} 7.0',
        'vllama_key_errors_total{class="server",key="",team=""} 1.0',
        'vllama_key_in_flight{key="",team=""} 0.0',
    ]


def test_a_key_without_requests_has_no_series() -> None:
    usage = UsageByKey()
    usage.of("blue", "anna")
    assert lines(usage) == []


def test_requests_in_flight_are_shown_by_key() -> None:
    usage = UsageByKey()
    usage.of("blue", "anna").in_flight += 2
    assert 'vllama_key_in_flight{key="anna",team="blue"} 2.0' in lines(usage)


def test_a_key_that_changes_its_team_keeps_the_counters_of_the_old_one() -> None:
    usage = UsageByKey()
    usage.finished(done())
    usage.finished(done(team="red"))
    found = lines(usage)
    assert 'vllama_key_requests_total{key="anna",team="blue"} 1.0' in found
    assert 'vllama_key_requests_total{key="anna",team="red"} 1.0' in found


@pytest.mark.parametrize(
    ("status", "outcome", "kind"),
    [
        (404, "refused", "refused"),
        (429, "refused", "limited"),
        (503, "refused", "server"),
        (500, "error", "server"),
        (200, "lost", "broken"),
        (200, "failed", "broken"),
        (499, "client gone", "client_gone"),
        (200, "client gone", "client_gone"),
        (200, "client stalled", "client_gone"),
    ],
)
def test_errors_are_counted_by_class(status: int, outcome: str, kind: str) -> None:
    usage = UsageByKey()
    record = done(status=status, outcome=outcome)
    usage.finished(record)
    assert error_class(status, outcome) == kind in ERROR_CLASSES
    assert f'vllama_key_errors_total{{class="{kind}",key="anna",team="blue"}} 1.0' in lines(usage)
