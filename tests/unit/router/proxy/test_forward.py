"""Requests with the limits and the retry budget of their model."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.balance import worker_in
from tests.support.forwarding import Fleet, status
from tests.support.until import auntil
from vllama_pool.router.admission.admission import RequestLimits
from vllama_pool.router.errors import ServerBusy


async def test_requests_beyond_max_waiting_are_refused_before_any_attempt() -> None:
    fleet = Fleet(max_waiting=1, a=[])
    while (worker := worker_in(fleet.pool, "a")).has_room:
        fleet.pool.lease(worker)
    waiting = asyncio.create_task(fleet.forward())
    await auntil(lambda: fleet.admission.waiting == 1)
    with pytest.raises(ServerBusy):
        await fleet.forward()
    assert fleet.upstream.sent == []
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert fleet.admission.waiting == 0


async def test_a_reload_of_the_limits_keeps_the_budget_that_a_model_has_spent() -> None:
    fleet = Fleet(a=[status(503) for _ in range(9)], b=[status(503) for _ in range(9)])
    for _ in range(4):
        await fleet.refusal()
    fleet.admission.set_limits({"m": RequestLimits(concurrency=9)})
    await fleet.refusal()
    assert [record.attempts for record in fleet.records] == [2, 2, 2, 1, 1]
