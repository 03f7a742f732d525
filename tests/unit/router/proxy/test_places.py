"""A request's places in queues: turns, time-outs, and clients that leave at any moment."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.balance import Clock
from tests.support.until import auntil
from vllama_pool.router.admission.queue import AdmissionQueue, QueueLimits
from vllama_pool.router.errors import ServerBusy
from vllama_pool.router.proxy.places import Places


def queue(places: int = 1, length: int = 10, wait: float | None = None) -> AdmissionQueue:
    return AdmissionQueue(QueueLimits(places, length, wait), Clock())


async def test_a_free_place_is_taken_without_waiting() -> None:
    one = queue()
    places = Places()
    await places.take(one)
    assert one.in_progress == 1
    places.end()
    places.end()
    assert one.is_idle


async def test_a_request_that_waits_longer_than_allowed_is_refused_and_leaves_the_queue() -> None:
    one = queue(wait=0.0)
    one.enter()
    places = Places()
    with pytest.raises(ServerBusy) as caught:
        await places.take(one)
    assert caught.value.retry_after == 1
    assert one.waiting == 0
    places.end()
    assert one.in_progress == 1


async def test_a_turn_in_the_same_moment_as_the_time_out_counts() -> None:
    one = queue(wait=0.0)
    holder = one.enter()
    places = Places()
    asyncio.get_running_loop().call_soon(holder.end)  # runs before the timer
    await places.take(one)
    assert one.in_progress == 1


async def test_a_request_that_stops_waiting_frees_its_place_at_once_and_keeps_those_it_holds() -> None:
    free, taken = queue(), queue(length=1)
    taken.enter()
    places = Places()
    await places.take(free)
    waiting = asyncio.create_task(places.take(taken))
    await auntil(lambda: taken.waiting == 1, 5, "the request to wait")
    places.stop_waiting()
    assert (free.in_progress, taken.waiting) == (1, 0)
    waiting.cancel()
    await asyncio.wait([waiting])
    places.end()
    assert free.is_idle


@given(
    seed=st.integers(0, 2**32),
    requests=st.integers(1, 30),
    limit=st.integers(1, 4),
    length=st.integers(0, 30),
    wait=st.sampled_from((None, 0.0, 5.0)),
)
@settings(max_examples=60, deadline=None)
def test_requests_that_leave_at_any_moment_leak_nothing(
    seed: int, requests: int, limit: int, length: int, wait: float | None
) -> None:
    rng = random.Random(seed)
    in_progress = most = 0

    async def request(queues: tuple[AdmissionQueue, ...], turns: int) -> None:
        nonlocal in_progress, most
        places = Places()
        try:
            for each in queues:
                await places.take(each)
            in_progress += 1
            most = max(most, in_progress)
            try:
                for _ in range(turns):
                    await asyncio.sleep(0)
            finally:
                in_progress -= 1
        finally:
            places.end()

    async def scenario() -> None:
        queues = queue(limit + 2, requests), queue(limit, length, wait)
        tasks = [asyncio.create_task(request(queues, rng.randrange(6))) for _ in range(requests)]
        for _ in range(requests * 3):
            if rng.random() < 0.5:
                rng.choice(tasks).cancel()
            if rng.random() < 0.2:
                queues[1].set_limits(QueueLimits(rng.randrange(1, limit + 1), length, wait))
            await asyncio.sleep(0)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError, ServerBusy}
        assert all(each.is_idle for each in queues)

    asyncio.run(scenario())
    assert most <= limit
