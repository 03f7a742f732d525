"""Retry decisions: the failures that are retried, delays, and the budget."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.router.balance.budget import RetryBudget
from vllama_pool.router.balance.retry import (
    MAX_ATTEMPTS,
    MAX_DELAY,
    MIN_DELAY,
    Attempts,
    GiveUp,
    Retry,
    decide,
    most_specific,
)
from vllama_pool.router.balance.select import Untried
from vllama_pool.router.errors import AttemptFailed, Busy, Faulty, Lost, ModelGone, Refused, Unable, Unavailable

MANY_HEALTHY = Untried(healthy=5, last_resort=0)
NONE_HEALTHY = Untried(healthy=0, last_resort=2)
NONE_LEFT = Untried(healthy=0, last_resort=0)
KINDS: list[type[AttemptFailed]] = [Lost, Busy, Unavailable, Faulty, Unable, ModelGone, Refused]


def after(*kinds: type[AttemptFailed], untried: Untried = MANY_HEALTHY, budget: float = 3) -> Retry | GiveUp:
    failures = tuple(kind(f"{kind.__name__} {number}") for number, kind in enumerate(kinds))
    return decide(Attempts(failures, untried, budget), random.Random(1))


@pytest.mark.parametrize("kind", [Busy, Unavailable, Faulty, Unable, ModelGone])
def test_a_bad_response_is_retried_at_once_and_budgeted(kind: type[AttemptFailed]) -> None:
    assert after(kind) == Retry(delay=0.0, budgeted=True)
    assert isinstance(after(kind, budget=0.9), GiveUp)


def test_a_first_lost_connection_is_retried_free_while_a_healthy_worker_is_left() -> None:
    assert after(Lost, budget=0) == Retry(delay=0.0, budgeted=False)
    assert isinstance(after(Lost, budget=0, untried=NONE_HEALTHY), GiveUp)
    assert after(Lost, untried=NONE_HEALTHY) == Retry(delay=0.0, budgeted=True)
    second = after(Busy, Lost, budget=0)
    assert isinstance(second, Retry)
    assert not second.budgeted


def test_the_retry_after_a_second_lost_connection_is_budgeted() -> None:
    second = after(Lost, Lost)
    assert isinstance(second, Retry)
    assert second.budgeted
    assert isinstance(after(Lost, Lost, budget=0), GiveUp)


def test_the_retry_after_two_crashes_that_another_request_has_caused_is_free() -> None:
    failures = (Lost("one"), Lost("two"))
    decision = decide(Attempts(failures, MANY_HEALTHY, 0, explained=True), random.Random(1))
    assert isinstance(decision, Retry)
    assert not decision.budgeted
    assert isinstance(decide(Attempts(failures, NONE_HEALTHY, 0, explained=True), random.Random(1)), GiveUp)


def test_the_second_retry_has_a_jittered_delay() -> None:
    failures = (Busy("one"), Busy("two"))
    rng = random.Random(1)
    delays = []
    for _ in range(200):
        decision = decide(Attempts(failures, MANY_HEALTHY, 3), rng)
        assert isinstance(decision, Retry)
        delays.append(decision.delay)
    assert min(delays) >= MIN_DELAY
    assert max(delays) <= MAX_DELAY
    assert max(delays) - min(delays) > 0.3


@pytest.mark.parametrize("kind", [Faulty, ModelGone])
def test_a_request_that_fails_on_two_workers_is_not_retried_on_a_third(kind: type[AttemptFailed]) -> None:
    for second in KINDS:
        decision = after(kind, second)
        assert isinstance(decision, GiveUp)


def test_a_refused_request_is_never_retried() -> None:
    decision = after(Refused)
    assert isinstance(decision, GiveUp)
    assert decision.failure.text == "Refused 0"


def test_without_an_untried_worker_there_is_no_retry() -> None:
    assert isinstance(after(Lost, untried=NONE_LEFT), GiveUp)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ((Lost, Busy, Lost), "Busy 1"),
        ((Faulty, Lost), "Faulty 0"),
        ((Unavailable, Lost, Lost), "Unavailable 0"),
        ((Busy, Busy, Busy), "Busy 2"),
        ((Lost, Refused), "Refused 1"),
        ((Lost, Lost, Lost), "Lost 2"),
    ],
)
def test_the_client_gets_the_latest_of_the_most_specific_failures(
    kinds: tuple[type[AttemptFailed], ...], expected: str
) -> None:
    failures = tuple(kind(f"{kind.__name__} {number}") for number, kind in enumerate(kinds))
    assert most_specific(failures).text == expected


@given(
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=10),
    st.integers(0, 3),
    st.integers(0, 3),
    st.floats(0, 5),
)
def test_there_are_never_more_than_three_attempts(
    kinds: list[type[AttemptFailed]], healthy: int, last_resort: int, budget: float
) -> None:
    attempts = 1
    while isinstance(after(*kinds[:attempts], untried=Untried(healthy, last_resort), budget=budget), Retry):
        attempts += 1
        if attempts > len(kinds):
            break
    assert attempts <= MAX_ATTEMPTS


@given(
    st.randoms(use_true_random=False),
    st.integers(1, 60),
    st.integers(1, 40),
    st.lists(st.sampled_from(KINDS), min_size=1),
)
def test_if_every_attempt_fails_workers_see_at_most_a_fifth_more_plus_three(
    rng: random.Random, requests: int, clients: int, kinds: list[type[AttemptFailed]]
) -> None:
    """A retry storm, in any order of requests and failures. One lost connection per request is free beside that."""
    budget, begun, attempts, lost = RetryBudget(), 0, 0, 0
    in_flight: list[list[AttemptFailed]] = []
    while in_flight or begun < requests:
        if begun < requests and len(in_flight) < clients and (not in_flight or rng.random() < 0.5):
            begun += 1
            budget.begin_request()
            in_flight.append([])
            continue
        failures = rng.choice(in_flight)
        failures.append(rng.choice(kinds)("down"))
        attempts += 1
        decision = decide(Attempts(tuple(failures), MANY_HEALTHY, budget.available), rng)
        if isinstance(decision, GiveUp):
            in_flight.remove(failures)
            budget.end_request()
            lost += any(isinstance(failure, Lost) for failure in failures)
        elif decision.budgeted:
            assert budget.try_spend()
    assert attempts <= 1.2 * requests + 3 + lost + 1e-9


@pytest.mark.parametrize("limit", [1, 2, 5, 10])
def test_a_model_may_have_more_or_fewer_attempts(limit: int) -> None:
    def decided(failed: int) -> Retry | GiveUp:
        failures = tuple(Busy("busy") for _ in range(failed))
        return decide(Attempts(failures, Untried(healthy=20, last_resort=0), 20, limit), random.Random(1))

    assert isinstance(decided(limit), GiveUp)
    assert limit == 1 or isinstance(decided(limit - 1), Retry)
