"""Requests that wait because of limits: their turn, their refusal, and clients that leave."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.balance import Clock
from tests.support.forwarding import Fleet, ok
from tests.support.until import auntil
from tests.support.upstream import FakeResponse, Hang
from vllama_pool.router.admission.admission import RequestLimits
from vllama_pool.router.admission.queue import AdmissionQueue, QueueLimits
from vllama_pool.router.admission.tenant import Tenant
from vllama_pool.router.balance.lease import ABANDONED, Lease
from vllama_pool.router.errors import ServerBusy
from vllama_pool.router.proxy.in_flight import ClientGone

HANGS = FakeResponse([Hang()])


def fill(fleet: Fleet) -> list[Lease]:
    """Lease whatever the workers take."""
    leases = []
    for worker in fleet.pool:
        while worker.has_room:
            leases.append(fleet.pool.lease(worker))
    return leases


def queue_of(fleet: Fleet) -> AdmissionQueue:
    queue = fleet.admission.queue("m")
    assert queue is not None
    return queue


async def test_a_request_beyond_the_limit_is_sent_when_another_one_ends() -> None:
    fleet = Fleet(limits=RequestLimits(concurrency=1), a=[HANGS, ok()])
    first = asyncio.create_task(fleet.forward())
    await auntil(lambda: len(fleet.upstream.sent) == 1)
    first_in_flight = fleet.in_flight
    second = asyncio.create_task(fleet.forward())
    await auntil(lambda: queue_of(fleet).waiting == 1)
    assert len(fleet.upstream.sent) == 1
    first_in_flight.client_gone()
    await asyncio.wait([first])
    await second
    assert fleet.record.outcome == "complete"
    fleet.assert_idle()


async def test_a_client_that_leaves_the_queue_frees_its_place_at_once() -> None:
    fleet = Fleet(limits=RequestLimits(concurrency=1, queue=1), a=[])
    holder = queue_of(fleet).enter()
    task = asyncio.create_task(fleet.forward())
    await auntil(lambda: queue_of(fleet).waiting == 1)
    fleet.in_flight.client_gone()
    assert queue_of(fleet).waiting == 0
    with pytest.raises(ClientGone):
        await task
    assert fleet.upstream.sent == []
    holder.end()
    fleet.assert_idle()


@pytest.mark.parametrize("limits", [RequestLimits(1, queue=0), RequestLimits(1, queue=1, wait=0.0)])
async def test_a_request_that_may_not_wait_is_refused_as_busy(limits: RequestLimits) -> None:
    fleet = Fleet(limits=limits, a=[])
    holder = queue_of(fleet).enter()
    with pytest.raises(ServerBusy) as caught:
        await fleet.forward()
    assert caught.value.text == "server busy, please try again.  maximum pending requests exceeded"
    assert (caught.value.status, caught.value.retry_after) == (503, 1)
    holder.end()
    fleet.assert_idle()


async def test_a_request_with_a_place_in_its_entrys_queue_is_not_refused_because_the_workers_are_full() -> None:
    fleet = Fleet(limits=RequestLimits(concurrency=1), max_waiting=0, a=[ok()])
    leases = fill(fleet)
    task = asyncio.create_task(fleet.forward())
    await auntil(lambda: fleet.admission.waiting == 1)
    assert fleet.upstream.sent == []
    leases.pop().release(ABANDONED)
    await task
    assert fleet.record.outcome == "complete"


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


async def test_changed_limits_apply_to_the_next_request_of_a_known_model() -> None:
    fleet = Fleet(a=[ok(), ok()])
    await fleet.answer()
    fleet.admission.set_limits({"m": RequestLimits(1, queue=0)})
    holder = queue_of(fleet).enter()
    with pytest.raises(ServerBusy):
        await fleet.forward()
    holder.end()
    fleet.admission.set_limits({})
    await fleet.answer()


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
