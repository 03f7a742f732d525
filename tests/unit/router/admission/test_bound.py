"""Admission: a limited number of requests may wait beyond the slots."""

import random

import pytest

from tests.support.balance import Clock, found, pool_of, worker_in
from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.router.admission.bound import Bound
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.errors import ServerBusy
from vllama_pool.router.routing.resolution import Resolution
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.workers.registry.record import LoadReport, WorkerState


def resolution(pool: Pool) -> Resolution:
    return ModelRoutes(RoutingTable(), random.Random(1)).resolve("m", pool)


def admitted(pool: Pool, max_waiting: int, requests: int, worker: str = "a") -> int:
    """Count the admitted requests, each sent to `worker` and never answered."""
    bound = Bound(max_waiting)
    for count in range(requests):
        try:
            bound.check(resolution(pool))
        except ServerBusy:
            return count
        bound.waiting += 1
        pool.lease(worker_in(pool, worker))
    return requests


@pytest.mark.rule(161)
@pytest.mark.parametrize("max_waiting", [0, 1, 512])
def test_max_waiting_requests_may_wait_beyond_the_slots(max_waiting: int) -> None:
    assert admitted(pool_of(Clock(), found("a", slots=8)), max_waiting, 1000) == max_waiting + 8


@pytest.mark.rule(161)
def test_the_refusal_has_ollamas_text_and_retry_after() -> None:
    pool = pool_of(Clock(), found("a", slots=1))
    pool.lease(worker_in(pool, "a"))
    with pytest.raises(ServerBusy) as caught:
        Bound(0).check(resolution(pool))
    assert caught.value.text == "server busy, please try again.  maximum pending requests exceeded"
    assert (caught.value.status, caught.value.retry_after) == (503, 1)


def test_a_burst_within_the_fleets_slots_is_admitted() -> None:
    pool = pool_of(Clock(), *(found(f"w{number}", slots=256) for number in range(32)))
    assert admitted(pool, 512, 8192, "w0") == 8192


def test_a_request_whose_response_began_no_longer_counts() -> None:
    pool = pool_of(Clock(), found("a", slots=1))
    bound = Bound(1)
    for _ in range(100):
        bound.check(resolution(pool))
        bound.waiting += 1
        pool.lease(worker_in(pool, "a"))
        bound.waiting -= 1


def test_the_requests_of_other_routers_count() -> None:
    pool = pool_of(Clock(), found("a", slots=8, load=LoadReport(state=WorkerState.READY, running=8, waiting=2)))
    assert admitted(pool, 2, 10) == 2


@pytest.mark.parametrize(("waiting", "admitted_count"), [(0, 10), (1, 10), (2, 2), (5, 2)])
def test_if_slots_are_unknown_the_workers_reported_queue_counts(waiting: int, admitted_count: int) -> None:
    pool = pool_of(Clock(), found("a", slots=0, load=LoadReport(state=WorkerState.READY, waiting=waiting)))
    assert admitted(pool, 2, 10) == admitted_count


def test_slots_of_draining_workers_do_not_count() -> None:
    pool = pool_of(Clock(), found("a", slots=1), found("b", slots=100, load=LoadReport(state=WorkerState.DRAINING)))
    assert admitted(pool, 1, 10) == 2
