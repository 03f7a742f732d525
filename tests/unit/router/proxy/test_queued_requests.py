"""Requests that wait because of limits: their turn, their refusal, and clients that leave."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.balance import Clock
from tests.support.forwarding import Fleet, ok, refused, status
from tests.support.tables import routing_table
from tests.support.until import auntil
from tests.support.upstream import FakeResponse, Hang
from vllama_pool.router.admission.admission import RequestLimits
from vllama_pool.router.admission.queue import AdmissionQueue, QueueLimits
from vllama_pool.router.admission.tenant import Tenant
from vllama_pool.router.balance.lease import ABANDONED, Lease
from vllama_pool.router.errors import ClientError, ServerBusy
from vllama_pool.router.proxy.in_flight import ClientGone
from vllama_pool.workers.registry.record import ModelInfo

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


async def test_after_a_429_of_the_last_worker_a_request_waits_for_it_again() -> None:
    fleet = Fleet(a=[status(429), ok()])
    await fleet.answer()
    assert fleet.upstream.workers == ["a", "a"]


async def test_a_request_after_a_429_waits_until_the_worker_has_room() -> None:
    fleet = Fleet(a=[HANGS, status(429), ok()])
    first = asyncio.create_task(fleet.forward())
    await auntil(lambda: len(fleet.upstream.sent) == 1)
    first_in_flight = fleet.in_flight
    second = asyncio.create_task(fleet.forward())
    await auntil(lambda: fleet.admission.waiting == 1)
    assert len(fleet.upstream.sent) == 2
    first_in_flight.client_gone()
    await asyncio.wait([first])
    await second
    assert fleet.upstream.workers == ["a", "a", "a"]
    fleet.assert_idle()


async def test_a_worker_that_always_answers_429_is_tried_as_often_as_the_entry_allows() -> None:
    fleet = Fleet(a=[status(429, "at capacity")] * 3)
    error = await fleet.refusal()
    assert (error.status, error.text, fleet.record.attempts) == (429, "at capacity", 3)


async def test_after_a_429_the_longest_wait_ends_in_ollamas_text() -> None:
    fleet = Fleet(limits=RequestLimits(wait=0.05), a=[HANGS, status(429)])
    first = asyncio.create_task(fleet.forward())
    await auntil(lambda: len(fleet.upstream.sent) == 1)
    first_in_flight = fleet.in_flight
    with pytest.raises(ServerBusy):
        await fleet.forward()
    first_in_flight.client_gone()
    await asyncio.wait([first])
    fleet.assert_idle()


async def test_after_a_429_a_fallback_for_overloaded_comes_before_the_queue() -> None:
    table = routing_table(models={"m": {"fallback": {"overloaded": ["x"]}}})
    fleet = Fleet(table=table, models={"b": ModelInfo(name="x", context_length=2048)}, a=[status(429)], b=[ok()])
    await fleet.answer()
    assert fleet.upstream.workers == ["a", "b"]


async def test_a_model_that_starts_from_zero_keeps_requests_whose_worker_is_lost_before_the_answer() -> None:
    table = routing_table(models={"m": {"scale": {"from_zero": True}}})
    fleet = Fleet(table=table, limits=RequestLimits(start=60.0), a=[refused(), ok()])
    task = asyncio.create_task(fleet.forward())
    await auntil(lambda: fleet.admission.waiting == 1)
    assert fleet.upstream.workers == ["a"]
    fleet.pool.mark_up("a")
    await task
    assert fleet.record.outcome == "complete"
    fleet.assert_idle()


async def test_requests_that_wait_stay_while_no_worker_is_healthy_and_new_ones_fail_at_once() -> None:
    fleet = Fleet(a=[refused(), refused(), ok()])
    leases = fill(fleet)
    waiting = asyncio.create_task(fleet.forward())
    await auntil(lambda: fleet.admission.waiting == 1)
    fleet.pool.mark_suspect("a")
    for lease in leases:
        lease.release(ABANDONED)
    for _ in range(2):
        in_flight = fleet.begin()
        with pytest.raises(ClientError) as caught:
            await in_flight.run()
        in_flight.close()
        assert caught.value.status == 503
    assert not waiting.done()
    fleet.pool.mark_up("a")
    await waiting
    fleet.assert_idle()
