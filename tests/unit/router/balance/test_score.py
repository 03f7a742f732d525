"""The scores that policies compare."""

from __future__ import annotations

import pytest

from tests.support.balance import found
from vllama_pool.router.balance.score import rank, score
from vllama_pool.router.balance.worker import Worker
from vllama_pool.router.errors import Faulty


def worker(slots: int = 8, now: float = 0.0, speed: float = 1.0) -> Worker:
    one = found("w", slots=slots, speed=speed)
    return Worker(one.record, one.endpoint, now)


def test_a_score_uses_measured_speed_only_if_the_worker_is_full() -> None:
    one = worker(slots=2, speed=2.0)
    one.speed.full = 0.5
    one.begin_request(1)
    assert score(one, 100) == 2 / 2.0
    one.begin_request(1)
    assert score(one, 100) == 3 / 0.5


def test_a_new_worker_has_a_tenth_of_its_speed() -> None:
    one = worker(now=100)
    assert score(one, 100) == pytest.approx(10)
    assert score(one, 110) == 1


def test_a_worker_that_answered_badly_scores_worse() -> None:
    one = worker()
    one.record_failure(Faulty("boom"), "m", sent=20, now=20)
    assert score(one, 20) == 8
    assert score(one, 60) == 1


def test_any_worker_with_a_free_slot_ranks_before_any_full_one() -> None:
    busy, full = worker(slots=100, speed=0.25), worker(slots=1, speed=4.0)
    for _ in range(99):
        busy.begin_request(1)
    full.begin_request(1)
    assert score(busy, 100) > score(full, 100)
    assert rank(busy, 100) < 0 < rank(full, 100)
