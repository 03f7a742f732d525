"""Requests that wait because of limits: their turn, their refusal, and clients that leave."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.forwarding import Fleet, ok, refused
from tests.support.until import auntil
from tests.support.upstream import FakeResponse, Hang
from vllama_pool.router.admission.admission import RequestLimits
from vllama_pool.router.admission.queue import AdmissionQueue
from vllama_pool.router.balance.lease import ABANDONED, Lease
from vllama_pool.router.errors import ClientError, ServerBusy
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
