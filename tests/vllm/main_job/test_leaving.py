"""Clients that disconnect free their slots and places in vLLM, by its own gauges, and their places in the queue."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import pytest

from tests.support.fleet.main_job import SLOTS, Fleet
from tests.support.fleet.streams import Figures, ReadCounts, chat_body, drop, engine_counts, streaming, until_placed
from tests.support.until import auntil

ROUNDS = 3
MAX_SECONDS = 1.0
"""Maximum seconds for the router."""
MAX_VLLM_SECONDS = 3.0
"""Maximum seconds for vLLM, which checks for aborts between engine steps. Two busy engines on two cores can delay a
step by a second, and a slow memory by another."""
QUEUED = 6
"""Requests to two full engines. Some wait inside vLLM, as each gets a tenth more than its slots; the rest waits in the
router."""
LONG = 1200
"""Tokens of an answer that outlasts the test."""


async def wait_for_counts(read_counts: ReadCounts, expected: tuple[int, int], seconds: float) -> float:
    """Wait until vLLM reports these counts. Returns the seconds it took; AssertionError beyond `seconds`."""
    start = requested = time.monotonic()
    counts = await read_counts()
    while counts != expected and requested - start < 10:
        await asyncio.sleep(0.02)
        requested = time.monotonic()
        counts = await read_counts()
    assert counts == expected
    assert requested - start <= seconds
    return time.monotonic() - start


async def seconds_until_free(fleet: Fleet, stream: bool, name: str) -> float:
    """Disconnect four clients. Returns the seconds until vLLM runs none of their requests."""
    async with (
        engine_counts(fleet) as read_counts,
        streaming(f"{fleet.url}/api/chat", chat_body(LONG, stream=stream), 4, name) as (streams, tasks),
    ):
        await auntil(lambda: _are(read_counts, (4, 0)), 30, "all four run")
        if stream:
            await auntil(lambda: all(one.has_content for one in streams), 30, "all have content")
        leaving = datetime.now(UTC)
        await drop(tasks)
        took = await wait_for_counts(read_counts, (0, 0), MAX_VLLM_SECONDS)
    ids = {one.id for one in streams}
    await auntil(lambda: ids <= fleet.serve.requests().keys(), 30, "they are logged")
    records = [fleet.serve.requests()[one] for one in ids]
    assert {record["outcome"] for record in records} == {"client gone"}
    released = max(datetime.fromisoformat(record["time"]) for record in records)
    assert (released - leaving).total_seconds() <= MAX_SECONDS
    return took


@pytest.mark.parametrize("stream", [True, False])
async def test_clients_that_leave_mid_answer_free_their_slots(
    fleet: Fleet, stream: bool, record_property: Figures
) -> None:
    took = [await seconds_until_free(fleet, stream, f"leave-{stream}-{number}") for number in range(ROUNDS)]
    listed = ", ".join(f"{seconds:.2f}" for seconds in took)
    record_property("figure", f"four clients left ({stream=}): vLLM runs none of theirs after {listed} s")


@pytest.mark.parametrize("stream", [True, False])
async def test_queued_clients_that_leave_free_their_places(
    fleet: Fleet, stream: bool, record_property: Figures
) -> None:
    url = f"{fleet.url}/api/chat"
    async with (
        engine_counts(fleet) as read_counts,
        streaming(url, chat_body(LONG), 2 * SLOTS, "full") as (streams, tasks),
    ):
        await auntil(lambda: _are(read_counts, (2 * SLOTS, 0)), 60, "every slot is taken")
        async with streaming(url, chat_body(LONG, stream=stream), QUEUED, "queued") as (queued, more):
            in_router = await until_placed(fleet, read_counts, 2 * SLOTS + QUEUED, 2 * SLOTS)
            assert 0 < in_router < QUEUED
            assert not any(one.lines for one in queued)
            await drop(more)
            took = await wait_for_counts(read_counts, (2 * SLOTS, 0), MAX_VLLM_SECONDS)
            await auntil(lambda: _waits(fleet, 0), MAX_VLLM_SECONDS, "none waits in the router")
            record_property(
                "figure",
                f"{QUEUED} left that waited, {in_router} in the router ({stream=}): vLLM saw it after {took:.2f} s",
            )
        assert all(one.has_content and not one.errors for one in streams), "all other streams continue"
        await drop(tasks)
        took = await wait_for_counts(read_counts, (0, 0), MAX_VLLM_SECONDS)
    record_property("figure", f"all {2 * SLOTS} of two full engines left: vLLM runs none after {took:.2f} s")


async def _are(read_counts: ReadCounts, expected: tuple[int, int]) -> bool:
    return await read_counts() == expected


async def _waits(fleet: Fleet, count: int) -> bool:
    return await asyncio.to_thread(fleet.queued) == count
