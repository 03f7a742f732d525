"""The retry budget of one model: a token bucket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.router.balance.budget import RetryBudget


def test_the_budget_starts_with_three_retries_and_gains_a_fifth_per_request() -> None:
    budget = RetryBudget()
    assert [budget.try_spend() for _ in range(4)] == [True, True, True, False]
    for _ in range(4):
        budget.begin_request()
        budget.end_request()
    assert not budget.try_spend()
    for _ in range(2):
        budget.begin_request()
        budget.end_request()
    assert budget.try_spend()


def test_the_budget_is_capped_at_a_fifth_of_the_requests_in_flight() -> None:
    budget = RetryBudget()
    for _ in range(100):
        budget.begin_request()
    assert budget.available == pytest.approx(20)
    for _ in range(100):
        budget.end_request()
    assert budget.available == 3
    assert budget.in_flight == 0


def test_an_idle_budget_gains_no_more_than_three_retries() -> None:
    budget = RetryBudget()
    for _ in range(100):
        budget.begin_request()
        budget.end_request()
    assert budget.available == 3


def test_the_repr_shows_retries_and_requests_in_flight() -> None:
    budget = RetryBudget()
    budget.begin_request()
    budget.try_spend()
    assert repr(budget) == "<RetryBudget 2.0 available, 1 in flight>"


def test_a_models_own_share_is_its_retries_per_request() -> None:
    budget = RetryBudget(0.5)
    for _ in range(100):
        budget.begin_request()
    assert budget.available == 50


def test_a_share_of_zero_allows_no_retry() -> None:
    budget = RetryBudget(0)
    for _ in range(10):
        budget.begin_request()
    assert not budget.try_spend()
    for _ in range(10):
        budget.end_request()
    assert (budget.available, budget.in_flight) == (0, 0)


def test_a_changed_share_keeps_what_is_in_flight_and_caps_what_is_available() -> None:
    budget = RetryBudget(1)
    for _ in range(20):
        budget.begin_request()
    budget.set_limits(0.2)
    assert (budget.in_flight, budget.available) == (20, 4)
    budget.set_limits(0)
    assert budget.available == 0


def test_a_lone_request_may_have_all_of_its_models_retries() -> None:
    budget = RetryBudget(0.1, 9)
    budget.begin_request()
    assert [budget.try_spend() for _ in range(10)] == [True] * 9 + [False]


def test_the_processes_of_a_router_share_the_retries_of_the_start_and_have_one_at_least() -> None:
    """Without a retry of its own, a process would answer with the error of the first ill worker."""
    assert sum(RetryBudget(processes=2).available for _ in range(2)) == 3
    budgets = [RetryBudget(processes=8) for _ in range(8)]
    assert [budget.available for budget in budgets] == [1] * 8
    for _ in range(100):
        budgets[0].begin_request()
        budgets[0].end_request()
    assert budgets[0].available == 3  # saved from requests


STEPS = st.one_of(
    st.sampled_from(["begin", "end", "spend"]),
    st.tuples(st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0]), st.integers(0, 9)),
)


@given(st.lists(STEPS, max_size=300), st.integers(1, 8), st.sampled_from([0.0, 0.1, 0.2, 0.5]), st.integers(0, 5))
def test_retries_never_exceed_the_share_of_the_requests_and_the_surplus(
    steps: list[str | tuple[float, int]], processes: int, share: float, retries: int
) -> None:
    """Whatever the order of requests, retries and changed limits."""
    budget = RetryBudget(share, retries, processes)
    allowed, spent = max(3 / processes, 1, retries), 0
    for step in steps:
        if step == "begin":
            budget.begin_request()
            allowed += budget.share
        elif step == "end" and budget.in_flight:
            budget.end_request()
        elif step == "spend":
            spent += budget.try_spend()
        elif isinstance(step, tuple):
            budget.set_limits(*step)
        assert spent <= allowed + 1e-9
        assert 0 <= budget.available <= max(3, budget.retries, budget.share * budget.in_flight)
