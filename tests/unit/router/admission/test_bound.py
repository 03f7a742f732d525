"""How many requests may wait, and that those which run are not counted."""

import random

import pytest

from tests.support.balance import Clock, found, pool_of, worker_in
from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.router.admission.bound import Admission
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.errors import ServerBusy
from vllama_pool.router.routing.resolve import ModelRoutes, Resolution
from vllama_pool.workers.registry.record import LoadReport, WorkerState


def resolved(pool: Pool) -> Resolution:
    return ModelRoutes(RoutingTable(), random.Random(1)).resolve("m", pool)


def admitted(pool: Pool, max_waiting: int, tries: int, worker: str = "a") -> int:
    """Requests that get in, each one sent to `worker` and none of them answered."""
    admission = Admission(max_waiting)
    for count in range(tries):
        try:
            admission.acquire(resolved(pool))
        except ServerBusy:
            return count
        pool.lease(worker_in(pool, worker))
    return tries


@pytest.mark.rule(161)
@pytest.mark.parametrize("max_waiting", [0, 1, 512])
def test_beyond_the_slots_so_many_may_wait(max_waiting: int) -> None:
    assert admitted(pool_of(Clock(), found("a", slots=8)), max_waiting, 1000) == max_waiting + 8


@pytest.mark.rule(161)
def test_the_refusal_is_ollamas_and_says_when_to_come_back() -> None:
    pool = pool_of(Clock(), found("a", slots=1))
    pool.lease(worker_in(pool, "a"))
    with pytest.raises(ServerBusy) as caught:
        Admission(0).acquire(resolved(pool))
    assert caught.value.text == "server busy, please try again.  maximum pending requests exceeded"
    assert (caught.value.status, caught.value.retry_after) == (503, 1)


def test_a_burst_that_the_fleet_has_slots_for_is_taken() -> None:
    pool = pool_of(Clock(), *(found(f"w{number}", slots=256) for number in range(32)))
    assert admitted(pool, 512, 8192, "w0") == 8192


def test_who_has_been_answered_waits_no_more() -> None:
    pool = pool_of(Clock(), found("a", slots=1))
    admission = Admission(1)
    for _ in range(100):
        admission.acquire(resolved(pool))
        pool.lease(worker_in(pool, "a"))
        admission.release()
    assert admission.waiting == 0


def test_the_requests_of_other_routers_count() -> None:
    pool = pool_of(Clock(), found("a", slots=8, load=LoadReport(state=WorkerState.READY, running=8, waiting=2)))
    assert admitted(pool, 2, 10) == 2


@pytest.mark.parametrize(("waiting", "admitted_count"), [(0, 10), (1, 10), (2, 2), (5, 2)])
def test_where_slots_are_unknown_the_workers_own_queue_counts(waiting: int, admitted_count: int) -> None:
    pool = pool_of(Clock(), found("a", slots=0, load=LoadReport(state=WorkerState.READY, waiting=waiting)))
    assert admitted(pool, 2, 10) == admitted_count


def test_slots_of_workers_that_are_out_are_none() -> None:
    pool = pool_of(Clock(), found("a", slots=1), found("b", slots=100, load=LoadReport(state=WorkerState.DRAINING)))
    assert admitted(pool, 1, 10) == 2
