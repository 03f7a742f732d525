"""Breakers on a time line: when they open, whom they let through, what closes them."""

import pytest

from vllama_pool.router.balance.breaker import Breaker, BreakerState
from vllama_pool.router.balance.health import WorkerHealth
from vllama_pool.router.errors import Busy, Faulty, Lost, ModelGone, Refused, Unavailable


def breaker() -> Breaker:
    return Breaker(threshold=5, hold=5.0)


def trip(one: Breaker, now: float) -> None:
    for _ in range(5):
        one.record_failure(now, now)


def test_it_opens_at_the_fifth_failure_in_a_row_and_not_before() -> None:
    one = breaker()
    for second in range(4):
        one.record_failure(second, second)
    assert one.allows(4)
    one.record_failure(4, 4)
    assert not one.allows(4)
    assert one.state(4) is BreakerState.OPEN


def test_a_success_in_between_starts_the_count_again() -> None:
    one = breaker()
    for second in range(4):
        one.record_failure(second, second)
    one.record_success(4)
    for second in range(5, 9):
        one.record_failure(second, second)
    assert one.state(9) is BreakerState.CLOSED


def test_half_open_it_lets_one_request_through_and_its_success_closes_it() -> None:
    one = breaker()
    trip(one, 0)
    assert not one.allows(4.9)
    assert one.allows(5.0)
    assert one.state(5.0) is BreakerState.HALF_OPEN
    assert one.acquire_probe(5.0)
    assert not one.allows(5.1)
    assert not one.acquire_probe(5.1)
    assert one.record_success(5.0)
    assert one.allows(5.2)
    assert one.state(5.2) is BreakerState.CLOSED


def test_each_failed_probe_keeps_it_open_for_longer_up_to_a_minute() -> None:
    one = breaker()
    now = 0.0
    trip(one, now)
    holds = []
    for _ in range(15):
        opened = now
        while not one.allows(now):
            now += 0.5
        holds.append(now - opened)
        one.acquire_probe(now)
        one.record_failure(now, now)
    assert holds[:4] == [5.0, 10.0, 15.0, 20.0]
    assert holds[11:] == [60.0] * 4


def test_after_a_success_the_holds_begin_at_the_shortest_again() -> None:
    one = breaker()
    trip(one, 0)
    one.acquire_probe(5)
    one.record_failure(5, 5)
    one.acquire_probe(15)
    one.record_success(15)
    trip(one, 20)
    assert one.allows(25)


def test_a_probe_whose_client_left_leaves_the_place_to_the_next() -> None:
    one = breaker()
    trip(one, 0)
    one.acquire_probe(5)
    one.release_probe()
    assert one.allows(5.1)


def test_news_from_before_it_opened_neither_closes_nor_prolongs_it() -> None:
    one = breaker()
    trip(one, 10)
    one.record_success(9)
    assert one.state(11) is BreakerState.OPEN
    one.acquire_probe(15)
    one.record_failure(9, 15.5)
    one.record_success(15)
    assert one.state(16) is BreakerState.CLOSED


def test_fifty_streams_that_break_together_are_one_lost_connection() -> None:
    health = WorkerHealth()
    for _ in range(50):
        health.record_failure(Lost("reset"), sent=0.0, now=10.0)
    assert health.link.openings == 1
    assert health.record_beat()
    assert health.is_healthy(10.1)
    health.record_failure(Lost("late news of the same event"), sent=0.0, now=10.2)
    assert health.is_healthy(10.3)


def test_a_lost_connection_suspects_at_once_and_a_beat_clears_it_once_only() -> None:
    health = WorkerHealth()
    health.record_failure(Lost("refused"), sent=0.0, now=0.0)
    assert health.is_suspect(0.1)
    assert health.describe(0.1) == "suspect"
    assert health.record_beat()
    assert health.is_healthy(0.2)

    health.record_failure(Lost("refused"), sent=0.3, now=0.3)
    assert not health.record_beat()
    assert not health.is_healthy(6.2)
    assert health.is_healthy(6.3)


def test_an_answer_restores_trust_in_beats() -> None:
    health = WorkerHealth()
    health.record_failure(Lost("refused"), sent=0.0, now=0.0)
    health.record_beat()
    health.record_success(sent=1.0)
    health.record_failure(Lost("refused"), sent=2.0, now=2.0)
    assert health.record_beat()


def test_without_any_news_one_trial_is_made_after_three_seconds() -> None:
    health = WorkerHealth()
    health.record_failure(Lost("refused"), sent=0.0, now=0.0)
    assert not health.is_healthy(2.9)
    assert health.is_healthy(3.0)
    assert health.acquire_probe(3.0)
    assert not health.is_healthy(3.1)
    assert health.record_success(sent=3.0)
    assert health.is_healthy(3.2)


@pytest.mark.parametrize("kind", [Unavailable, Faulty])
def test_bad_answers_open_the_breaker_and_beats_do_not_close_it(kind: type[Unavailable | Faulty]) -> None:
    health = WorkerHealth()
    for second in range(5):
        health.record_failure(kind("no"), sent=second, now=second)
    assert not health.record_beat()
    assert not health.is_healthy(5)
    assert not health.is_suspect(5)
    assert health.describe(5) == "open"


@pytest.mark.parametrize("kind", [Busy, ModelGone, Refused])
def test_a_worker_that_is_busy_or_says_no_is_not_ill(kind: type[Busy | ModelGone | Refused]) -> None:
    health = WorkerHealth()
    for second in range(20):
        health.record_failure(kind("no"), sent=second, now=second)
    assert health.is_healthy(20)


def test_a_refusal_proves_that_the_worker_answers_and_a_busy_probe_leaves_the_question_open() -> None:
    health = WorkerHealth()
    for _ in range(5):
        health.record_failure(Faulty("no"), sent=0.0, now=0.0)
    health.acquire_probe(5.0)
    health.record_failure(Busy("full"), sent=5.0, now=5.1)
    assert health.describe(5.2) == "half-open"
    assert health.is_healthy(5.2)
    health.acquire_probe(5.2)
    health.record_failure(Refused("bad request"), sent=5.2, now=5.3)
    assert health.describe(5.4) == "closed"


def test_any_answer_shows_that_the_connection_works() -> None:
    health = WorkerHealth()
    health.record_failure(Lost("refused"), sent=0.0, now=0.0)
    health.record_failure(Faulty("boom"), sent=3.0, now=3.1)
    assert not health.is_suspect(3.2)
