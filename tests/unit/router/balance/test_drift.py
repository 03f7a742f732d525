"""The reports of a worker confirm that this router counts requests that it does not have."""

from __future__ import annotations

from tests.support.balance import Clock, found, pool_of, worker_in
from vllama_pool.router.balance.drift import CONFIRM_FOR, CONFIRM_REPORTS, Excess
from vllama_pool.router.balance.pool import Pool
from vllama_pool.workers.registry.record import LoadReport


def excess(pool: Pool, clock: Clock, *running: int, every: float = 1.0) -> list[int]:
    """Return the result of a look after each of these reports."""
    doubt, results = Excess(), []
    for count in running:
        clock.advance(every)
        pool.report("a", LoadReport(running=count))
        results.append(doubt.look(worker_in(pool, "a")))
    return results


def counting(clock: Clock, requests: int) -> Pool:
    pool = pool_of(clock, found("a"))
    for _ in range(requests):
        pool.lease(worker_in(pool, "a"))
    return pool


def test_an_excess_in_all_reports_is_confirmed_after_ten_seconds() -> None:
    clock = Clock()
    assert excess(counting(clock, 3), clock, *([1] * 11)) == [0] * 10 + [2]


def test_the_least_excess_is_the_confirmed_one() -> None:
    clock = Clock()
    assert excess(counting(clock, 4), clock, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0)[-1] == 1


def test_one_report_with_all_requests_begins_the_confirmation_anew() -> None:
    clock = Clock()
    assert excess(counting(clock, 2), clock, *([0] * 8), 2, *([0] * 10)) == [0] * 19


def test_requests_of_others_in_the_worker_hide_an_excess() -> None:
    clock = Clock()
    assert not any(excess(counting(clock, 2), clock, *([50] * 30)))


def test_requests_that_wait_in_the_worker_count() -> None:
    clock = Clock()
    pool, doubt = counting(clock, 2), Excess()
    for _ in range(20):
        clock.advance(1)
        pool.report("a", LoadReport(running=1, waiting=1))
        assert doubt.look(worker_in(pool, "a")) == 0


def test_the_same_report_is_looked_at_once() -> None:
    clock = Clock()
    pool, doubt = counting(clock, 1), Excess()
    pool.report("a", LoadReport())
    for _ in range(100):
        clock.advance(1)
        assert doubt.look(worker_in(pool, "a")) == 0


def test_few_reports_confirm_nothing_however_long_it_takes() -> None:
    clock = Clock()
    results = excess(counting(clock, 1), clock, *([0] * CONFIRM_REPORTS), every=CONFIRM_FOR)
    assert results == [0] * (CONFIRM_REPORTS - 1) + [1]


def test_a_confirmed_excess_has_to_be_confirmed_anew() -> None:
    clock = Clock()
    results = excess(counting(clock, 1), clock, *([0] * 22))
    assert [index for index, count in enumerate(results) if count] == [10, 21]


def test_a_worker_without_reports_confirms_nothing() -> None:
    clock = Clock()
    doubt, worker = Excess(), worker_in(counting(clock, 1), "a")
    assert not any(doubt.look(worker) for _ in range(100))
