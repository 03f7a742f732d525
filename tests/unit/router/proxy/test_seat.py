"""The places and the budget that a request holds while it is served."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.balance import Clock
from tests.support.forwarding import Fleet, ok
from tests.support.until import auntil
from vllama_pool.router.admission.admission import RequestLimits
from vllama_pool.router.admission.queue import AdmissionQueue, QueueLimits
from vllama_pool.router.admission.tenant import Tenant
from vllama_pool.router.balance.budget import RetryBudget
from vllama_pool.router.proxy.seat import Seat, Terms


def queue_of(fleet: Fleet) -> AdmissionQueue:
    queue = fleet.admission.queue("m")
    assert queue is not None
    return queue


async def test_further_limits_such_as_a_keys_are_passed_before_the_entrys() -> None:
    fleet = Fleet(limits=RequestLimits(concurrency=1), a=[ok()])
    cap = AdmissionQueue(QueueLimits(1, 5), Clock())
    holder = cap.enter()

    async def forward() -> None:
        in_flight = fleet.begin(caps=(cap,))
        try:
            await in_flight.run()
        finally:
            in_flight.close()

    task = asyncio.create_task(forward())
    await auntil(lambda: cap.waiting == 1)
    assert queue_of(fleet).is_idle
    holder.end()
    await task
    assert fleet.record.outcome == "complete"
    assert cap.is_idle
    fleet.assert_idle()


async def test_the_time_in_the_queue_is_recorded() -> None:
    fleet = Fleet(limits=RequestLimits(concurrency=1), a=[ok()])
    holder = queue_of(fleet).enter()
    task = asyncio.create_task(fleet.forward())
    await auntil(lambda: queue_of(fleet).waiting == 1)
    fleet.clock.advance(1.5)
    holder.end()
    await task
    assert fleet.record.queue_ms == 1500.0


BLUE, RED = Tenant("team", "blue", 2), Tenant("team", "red")


@pytest.mark.parametrize(
    ("waiting", "order"),
    [
        ([(None, "10.0.0.1"), (None, "10.0.0.1"), (None, "10.0.0.2")], [0, 2, 1]),
        ([(RED, "10.0.0.1"), (RED, "10.0.0.2"), (BLUE, "10.0.0.1"), (BLUE, "10.0.0.1")], [2, 0, 3, 1]),
        ([(RED, ""), (RED, ""), (None, "red")], [0, 2, 1]),
    ],
    ids=["addresses without keys", "teams from any address", "a team and an address"],
)
async def test_tenants_that_wait_take_turns(waiting: list[tuple[Tenant | None, str]], order: list[int]) -> None:
    fleet = Fleet(limits=RequestLimits(concurrency=1), a=[ok() for _ in waiting])
    holder = queue_of(fleet).enter()
    answered: list[int] = []

    async def forward(number: int, tenant: Tenant | None, address: str) -> None:
        in_flight = fleet.begin(tenant=tenant, address=address)
        try:
            await in_flight.run()
        finally:
            in_flight.close()
        answered.append(number)

    tasks = []
    for number, (tenant, address) in enumerate(waiting):
        tasks.append(asyncio.create_task(forward(number, tenant, address)))
        await auntil(lambda: queue_of(fleet).waiting == len(tasks))
    holder.end()
    await asyncio.gather(*tasks)
    assert answered == order
    fleet.assert_idle()


async def test_a_seat_is_left_once_and_counts_the_requests_that_a_worker_had() -> None:
    fleet = Fleet(a=[])
    call = fleet.begin().call
    budget, workers = RetryBudget(), fleet.admission.worker_queue("m")
    seat = Seat(lambda _: Terms(None, workers, budget, 1))
    for served in (False, True):
        assert seat.enter(call.resolution).queue is None
        assert budget.in_flight == 1
        for _ in range(2):
            seat.leave(served=served)
        assert budget.in_flight == 0
        assert workers.ended == served


async def test_places_in_the_limits_of_a_key_outlast_the_model() -> None:
    fleet = Fleet(a=[])
    first, second = (AdmissionQueue(QueueLimits(1, 5), Clock()) for _ in range(2))
    call = fleet.begin(caps=(first, second)).call
    budget, workers = RetryBudget(), fleet.admission.worker_queue("m")
    seat = Seat(lambda _: Terms(None, workers, budget, 1))
    await seat.take_caps(call, fleet.shared.upstream.clock)
    seat.enter(call.resolution)
    seat.leave()
    assert not first.is_idle
    for _ in range(2):
        seat.leave_caps()
    assert (first.is_idle, second.is_idle) == (True, True)


async def test_a_request_that_stops_waiting_leaves_the_limits_of_its_key() -> None:
    fleet = Fleet(a=[])
    cap = AdmissionQueue(QueueLimits(1, 5), Clock())
    holder = cap.enter()
    call = fleet.begin(caps=(cap,)).call
    seat = Seat(lambda _: Terms(None, fleet.admission.worker_queue("m"), RetryBudget(), 1))
    waiting = asyncio.create_task(seat.take_caps(call, fleet.shared.upstream.clock))
    await auntil(lambda: cap.waiting == 1)
    seat.stop_waiting()
    assert cap.waiting == 0
    waiting.cancel()
    holder.end()
