from __future__ import annotations

import pytest

from vllama_pool.workers.agent.load_statistics import DEFAULT_SLOTS, IdleDetector, TokenRate, is_significant_change
from vllama_pool.workers.registry.record import LoadReport, WorkerState
from vllama_pool.workers.vllm.probe import Metrics


def test_the_token_rate_covers_the_last_second() -> None:
    rate = TokenRate()
    assert rate.update(0.0, 1000) == 0
    assert rate.update(0.5, 1050) == pytest.approx(100)
    assert rate.update(1.0, 1100) == pytest.approx(100)
    for step in range(1, 9):
        last = rate.update(1.0 + step / 4, 1100)
    assert last == 0


def test_a_counter_that_fell_restarts_the_rate() -> None:
    rate = TokenRate()
    rate.update(0.0, 1000)
    assert rate.update(1.0, 10) == 0
    assert rate.update(2.0, 40) == pytest.approx(30)


def test_a_server_is_idle_after_idle_polls_over_the_whole_duration() -> None:
    idle_detector, idle, busy = IdleDetector(duration=1.0), Metrics(reported=True), Metrics(running=1, reported=True)
    assert not idle_detector.update(0.0, idle)
    assert not idle_detector.update(0.9, idle)
    assert not idle_detector.update(0.95, busy)
    assert not idle_detector.update(1.0, idle)
    assert not idle_detector.update(1.9, idle)
    assert idle_detector.update(2.0, idle)


def test_a_server_with_waiting_requests_is_not_idle() -> None:
    idle_detector = IdleDetector(duration=0.0)
    assert not idle_detector.update(0.0, Metrics(waiting=1))
    assert not idle_detector.update(1.0, Metrics(waiting=1))


@pytest.mark.parametrize(
    ("running", "waiting", "slots", "significant"),
    [
        (1, 0, 8, False),
        (2, 0, 8, True),
        (0, 2, 8, True),
        (1, 0, 1, True),
        (DEFAULT_SLOTS // 4, 0, 0, True),
        (1, 0, 0, False),
    ],
)
def test_a_change_by_a_quarter_of_the_slots_is_significant(
    running: int, waiting: int, slots: int, significant: bool
) -> None:
    assert is_significant_change(LoadReport(), LoadReport(running=running, waiting=waiting), slots) is significant


def test_a_new_state_or_note_is_significant() -> None:
    assert is_significant_change(None, LoadReport(), 8)
    assert is_significant_change(LoadReport(), LoadReport(state=WorkerState.DRAINING), 8)
    assert is_significant_change(LoadReport(), LoadReport(note="why"), 8)
    assert not is_significant_change(LoadReport(), LoadReport(kv_usage=0.9, tokens_per_second=50), 8)
