"""Clients that disconnect free their slots and places in vLLM, by its own gauges, and their places in the queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from tests.support.fleet.main_job import SLOTS, Fleet
from tests.support.fleet.programs import Json
from tests.support.fleet.streams import Figures, ReadCounts, Stream, chat_body, drop, engine_counts, streaming
from tests.support.until import auntil

ROUNDS = 3
MAX_SECONDS = 3.0
"""Maximum seconds for the router in the fastest round. It takes a fraction of a second on a machine of its own."""
FULL = 2 * SLOTS + 1
"""Requests that fill two engines, however they are shared out: each gets one more than its slots."""
QUEUED = 6
"""Requests to two full engines. One waits inside vLLM, and the rest in the router."""
LONG = 1500
"""Tokens of an answer that outlasts the test."""


@dataclass(frozen=True)
class Freed:
    """The end of a number of requests in vLLM."""

    seconds: float
    generated: int
    """Tokens that vLLM generated meanwhile."""


async def freed(read_counts: ReadCounts, tasks: list[asyncio.Task[None]], left: tuple[int, int]) -> Freed:
    """Disconnect these clients, and wait until vLLM runs and holds only the requests that are left."""
    start, before = time.monotonic(), await read_counts()
    await drop(tasks)

    async def are_gone() -> int | None:
        counts = await read_counts()
        return counts.generated if counts.requests == left else None

    after = await auntil(are_gone, 120, f"{left} requests run and wait in vLLM")
    assert after is not None
    return Freed(time.monotonic() - start, after - before.generated)


async def logged(fleet: Fleet, streams: Iterable[Stream]) -> list[Json]:
    """Wait for the log lines of these requests."""
    ids = {one.id for one in streams}
    await auntil(lambda: ids <= fleet.serve.requests().keys(), 60, "they are logged")
    log = fleet.serve.requests()
    return [log[one] for one in ids]


async def leave(fleet: Fleet, stream: bool, name: str) -> tuple[float, Freed]:
    """Disconnect four clients. Returns the seconds until the router has let all of them go, and their end in vLLM."""
    async with (
        engine_counts(fleet) as read_counts,
        streaming(f"{fleet.url}/api/chat", chat_body(LONG, stream=stream), 4, name) as (streams, tasks),
    ):
        await auntil(lambda: _are(read_counts, (4, 0)), 120, "all four run")
        if stream:
            await auntil(lambda: all(one.has_content for one in streams), 120, "all have content")
        leaving = datetime.now(UTC)
        end = await freed(read_counts, tasks, (0, 0))
    assert end.generated < LONG, "the four together made less than one of them would have"
    records = await logged(fleet, streams)
    assert {record["outcome"] for record in records} == {"client gone"}
    released = max(datetime.fromisoformat(record["time"]) for record in records)
    return (released - leaving).total_seconds(), end


@pytest.mark.parametrize("stream", [True, False])
async def test_clients_that_leave_mid_answer_free_their_slots(
    fleet: Fleet, stream: bool, record_property: Figures
) -> None:
    rounds = [await leave(fleet, stream, f"leave-{stream}-{number}") for number in range(ROUNDS)]
    listed = ", ".join(f"{end.seconds:.2f} s and {end.generated} tokens" for _, end in rounds)
    record_property("figure", f"four clients left ({stream=}): vLLM runs none of theirs after {listed}")
    assert min(released for released, _ in rounds) <= MAX_SECONDS


@pytest.mark.parametrize("stream", [True, False])
async def test_queued_clients_that_leave_free_their_places(
    fleet: Fleet, stream: bool, record_property: Figures
) -> None:
    """Two full engines run until the test ends them, so others wait for as long as it likes."""
    url, name = f"{fleet.url}/api/chat", f"queued-{stream}"
    async with (
        engine_counts(fleet) as read_counts,
        streaming(url, chat_body(LONG), FULL, f"full-{stream}") as (streams, tasks),
    ):
        await auntil(lambda: sum(one.has_content for one in streams) == 2 * SLOTS, 240, "all slots stream")
        async with streaming(url, chat_body(LONG, stream=stream), QUEUED, name) as (queued, more):
            await auntil(lambda: _all_wait(fleet, read_counts), 120, "all others wait, in vLLM and in the router")
            end = await freed(read_counts, more, (2 * SLOTS, 1))
            await auntil(lambda: _waiting(fleet, 0), 60, "none waits in the router")
        assert not any(one.lines for one in queued)
        in_router = sum(not record.get("attempts") for record in await logged(fleet, queued))
        assert 0 < in_router < QUEUED
        record_property(
            "figure",
            f"{QUEUED} left that waited, {in_router} in the router ({stream=}): vLLM saw it after {end.seconds:.2f} s",
        )
        assert not any(one.errors for one in streams)
        assert not any(task.done() for task in tasks), "all other streams continue"
        end = await freed(read_counts, tasks, (0, 0))
    assert end.generated < len(streams) * LONG / 4, "together a small part of what they would have"
    record_property("figure", f"all {FULL} of two full engines left: vLLM runs none after {end.seconds:.2f} s")


async def _are(read_counts: ReadCounts, expected: tuple[int, int]) -> bool:
    return (await read_counts()).requests == expected


async def _all_wait(fleet: Fleet, read_counts: ReadCounts) -> bool:
    queued = await asyncio.to_thread(fleet.queued)
    return queued > 0 and queued + (await read_counts()).waiting == QUEUED + 1


async def _waiting(fleet: Fleet, count: int) -> bool:
    return await asyncio.to_thread(fleet.queued) == count
