"""Room at a worker for requests that could also wait in the router, and the events that may make some."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.balance import DRAINING, READY, Clock, found, pool_of, worker_in
from vllama_pool.router.balance.lease import ABANDONED, Errored
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.errors import Busy
from vllama_pool.workers.registry.record import LoadReport


def taken(pool: Pool, worker_id: str = "a", most: int = 1000) -> int:
    """Lease as long as the worker has room."""
    worker = worker_in(pool, worker_id)
    count = 0
    while worker.has_room and count < most:
        pool.lease(worker)
        count += 1
    return count


@pytest.mark.parametrize(("slots", "requests"), [(1, 2), (8, 9), (10, 11), (256, 282), (0, 1000)])
def test_a_worker_has_room_for_a_tenth_more_than_its_slots(slots: int, requests: int) -> None:
    assert taken(pool_of(Clock(), found("a", slots=slots))) == requests


@pytest.mark.parametrize("slots", [0, 8])
def test_nothing_more_is_sent_to_a_queue_of_unknown_slots_or_a_full_cache(slots: int) -> None:
    load = LoadReport(running=4, waiting=1, kv_usage=0.99)
    pool = pool_of(Clock(), found("a", slots=slots, load=load))
    assert taken(pool) == 0
    pool.report("a", LoadReport(running=4))
    assert taken(pool) > 0


@pytest.mark.parametrize(("sharers", "own"), [(1, 4), (2, 4), (4, 2), (100, 1)])
def test_a_router_gets_its_share_even_if_others_fill_the_worker(sharers: int, own: int) -> None:
    pool = Pool(Clock(), sharers)
    pool.put(found("a", slots=8, load=LoadReport(running=8, waiting=1)))
    assert taken(pool) == own


def test_after_a_busy_answer_one_request_at_a_time_tries() -> None:
    pool = pool_of(Clock(), found("a", slots=8))
    worker = worker_in(pool, "a")
    pool.lease(worker).release(Errored(Busy("full", status=429)))
    assert taken(pool) == 1
    pool.report("a", READY)
    assert worker.has_room


def leave(pool: Pool) -> None:
    pool.remove("a")


EVENTS: dict[str, Callable[[Pool], object]] = {
    "a report": lambda pool: pool.report("a", READY),
    "a drain": lambda pool: pool.report("a", DRAINING),
    "a successful probe": lambda pool: (pool.mark_down("a"), pool.mark_up("a")),
    "a worker that joins": lambda pool: pool.put(found("b")),
    "a worker that leaves": leave,
    "other slots": lambda pool: pool.put(found("a", slots=99)),
}


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_events_that_may_make_room_are_told_while_somebody_waits(event: Callable[[Pool], object]) -> None:
    pool = pool_of(Clock(), found("a"))
    told: list[None] = []
    pool.vacancies.watch(lambda: told.append(None))
    event(pool)
    assert told


def test_the_end_of_a_lease_is_told_only_while_somebody_waits() -> None:
    pool = pool_of(Clock(), found("a"))
    leases = [pool.lease(worker_in(pool, "a")) for _ in range(3)]
    told: list[None] = []
    leases[0].release(ABANDONED)
    pool.vacancies.watch(lambda: told.append(None))
    leases[1].release(ABANDONED)
    pool.vacancies.unwatch()
    leases[2].release(ABANDONED)
    assert len(told) == 1
