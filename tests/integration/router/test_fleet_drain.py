"""A drain asked of one router reaches the others of the fleet through a signed registry."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.registry.router_views import FLEET, SECRET, RouterView, Worker, router_view, workers
from tests.support.registry.valkey import running_valkey
from tests.support.until import auntil
from vllama_pool.workers.registry.client import connect
from vllama_pool.workers.registry.embedded import EmbeddedValkey
from vllama_pool.workers.registry.keys import Keys
from vllama_pool.workers.registry.want import Want, encode_want

POLL_BOUND = 1.0
"""Seconds: a poll each half second, with 20 % jitter, on a busy machine."""


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[EmbeddedValkey]:
    async with running_valkey(tmp_path) as running:
        yield running


@contextlib.asynccontextmanager
async def two_routers(valkey: EmbeddedValkey) -> AsyncIterator[tuple[RouterView, RouterView, list[Worker]]]:
    async with (
        router_view(valkey.address) as first,
        router_view(valkey.address) as second,
        workers(valkey.address, "a", "b") as both,
    ):
        for router in (first, second):
            await auntil(lambda router=router: router.pool.all_usable == {"a", "b"}, 10, "the workers to join")
        yield first, second, both


async def test_a_drain_is_pushed_to_the_other_router(
    valkey: EmbeddedValkey, record_property: Callable[[str, object], None]
) -> None:
    async with two_routers(valkey) as (first, second, _):
        started = time.monotonic()
        await first.drains.ask("a", drain=True)
        await auntil(lambda: second.pool.all_usable == {"b"}, 5, "the drain", interval=0.001)
        record_property("figure", f"a drain reaches another router after {1000 * (time.monotonic() - started):.0f} ms")
        assert first.pool.all_usable == {"b"}
        await second.drains.ask("a", drain=False)
        await auntil(lambda: first.pool.all_usable == {"a", "b"}, 5, "its end")


async def test_a_drain_whose_message_is_lost_is_read_with_the_next_poll(valkey: EmbeddedValkey) -> None:
    async with two_routers(valkey) as (first, second, _):
        redis = connect(valkey.address)
        entry = encode_want(Want(worker="b", drain=True, revision=1), fleet=FLEET, secret=SECRET)
        await redis.hset(Keys.of(FLEET).want, "b", entry)
        await redis.aclose()
        for router in (first, second):
            await auntil(lambda router=router: router.pool.all_usable == {"a"}, POLL_BOUND, "the drain")


async def test_a_drain_outlives_a_flush_and_routers_that_join_later_follow_it(valkey: EmbeddedValkey) -> None:
    async with two_routers(valkey) as (first, second, _):
        await first.drains.ask("a", drain=True)
        redis = connect(valkey.address)
        await redis.flushall()
        await redis.aclose()
        async with router_view(valkey.address) as later:
            await auntil(lambda: later.pool.all_usable == {"b"}, 10, "the later router to see the fleet and the drain")
        assert first.pool.all_usable == second.pool.all_usable == {"b"}


async def test_an_agent_alone_carries_its_drain_over_a_restart_of_registry_and_routers(tmp_path: Path) -> None:
    async with running_valkey(tmp_path) as valkey, contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(workers(valkey.address, "a"))
        async with router_view(valkey.address) as router:
            await auntil(lambda: router.pool.all_usable == {"a"}, 10, "the worker to join")
            await router.drains.ask("a", drain=True)
            beats = router.pool.get("a")
            assert beats is not None
            seen = beats.reported_at
            await auntil(lambda: beats.reported_at != seen and beats.drained, 5, "the agent to beat again")
        redis = connect(valkey.address)
        await redis.flushall()
        await redis.aclose()
        async with router_view(valkey.address) as restarted:
            await auntil(lambda: "a" in restarted.pool.joined_at, 10, "the worker to register again")
            await auntil(lambda: restarted.drains.drained == {"a"}, 5, "the drain")
            assert not restarted.pool.all_usable
