"""A client that leaves frees its place in vLLM at once, whatever its request was doing. vLLM's own gauges say so."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from statistics import median

import pytest

from tests.support.fleet.main_job import SLOTS, Figures, Fleet, Look, chat_body, drop, looking, streaming
from tests.support.until import auntil

ROUNDS = 3
SOON = 1.0
"""Seconds: for the router each time, for vLLM in the middle one of the rounds."""
AT_MOST = 3.0
"""Seconds, for vLLM. It looks for aborts between steps, and two engines, which spin while they wait, keep two cores
busy: a step was seen to take a second more."""
LONG = 1200
"""Tokens: far more than the test waits for."""


async def seen_within(look: Look, wanted: tuple[int, int], seconds: float) -> float:
    """vLLM says so itself, on a page that was asked for within so many seconds. Returns after how many it was there."""
    begun = asked = time.monotonic()
    seen = await look()
    while seen != wanted and asked - begun < 10:
        await asyncio.sleep(0.02)
        asked = time.monotonic()
        seen = await look()
    assert seen == wanted
    assert asked - begun <= seconds
    return time.monotonic() - begun


async def left(fleet: Fleet, stream: bool, name: str) -> float:
    """Four begin answers and leave. Returns the seconds after which vLLM runs none of theirs."""
    async with (
        looking(fleet) as look,
        streaming(f"{fleet.url}/api/chat", chat_body(LONG, stream=stream), 4, name) as (streams, tasks),
    ):
        await auntil(lambda: _are(look, (4, 0)), 30, "all four run")
        if stream:
            await auntil(lambda: all(one.has_content for one in streams), 30, "all have content")
        leaving = datetime.now(UTC)
        await drop(tasks)
        took = await seen_within(look, (0, 0), AT_MOST)
    ids = {one.id for one in streams}
    await auntil(lambda: ids <= fleet.serve.requests().keys(), 5, "they are logged")
    records = [fleet.serve.requests()[one] for one in ids]
    assert {record["outcome"] for record in records} == {"client gone"}
    let_go = max(datetime.fromisoformat(record["time"]) for record in records)
    assert (let_go - leaving).total_seconds() <= SOON
    return took


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_while_it_is_answered(fleet: Fleet, stream: bool, record_property: Figures) -> None:
    took = [await left(fleet, stream, f"leave-{stream}-{number}") for number in range(ROUNDS)]
    told = ", ".join(f"{seconds:.2f}" for seconds in took)
    record_property("figure", f"four clients left ({stream=}): vLLM runs none of theirs after {told} s")
    assert median(took) <= SOON


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_before_the_first_token(fleet: Fleet, stream: bool, record_property: Figures) -> None:
    url = f"{fleet.url}/api/chat"
    async with looking(fleet) as look, streaming(url, chat_body(LONG), 2 * SLOTS, "full") as (streams, tasks):
        await auntil(lambda: _are(look, (2 * SLOTS, 0)), 60, "every slot is taken")
        async with streaming(url, chat_body(LONG, stream=stream), 6, "queued") as (queued, more):
            await auntil(lambda: _are(look, (2 * SLOTS, 6)), 30, "six wait inside vLLM")
            assert not any(one.lines for one in queued)
            await drop(more)
            took = await seen_within(look, (2 * SLOTS, 0), AT_MOST)
            record_property("figure", f"six left that waited in full engines ({stream=}): seen after {took:.2f} s")
        assert all(one.has_content and not one.errors for one in streams), "nobody else was touched"
        await drop(tasks)
        took = await seen_within(look, (0, 0), AT_MOST)
    record_property("figure", f"all {2 * SLOTS} of two full engines left: vLLM runs none after {took:.2f} s")


async def _are(look: Look, wanted: tuple[int, int]) -> bool:
    return await look() == wanted
