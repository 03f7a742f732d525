"""Discovery on a real Valkey: how soon joins and leaves arrive, and that registry faults take no worker down."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.registry.router_views import FLEET, SECRET, RouterView, Worker, router_view, workers
from tests.support.registry.valkey import running_valkey
from tests.support.until import auntil
from vllama_pool.router.discovery.membership import Liveness
from vllama_pool.workers.registry.client import Registry, RegistryUnavailable, connect
from vllama_pool.workers.registry.embedded import EmbeddedValkey
from vllama_pool.workers.registry.keys import Keys
from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerRecord
from vllama_pool.workers.registry.signature import sign_record, verify_record

Figures = Callable[[str, object], None]

JOIN_BOUND = 2.0
DEATH_BOUND = 10.0
HEAL_BOUND = 10.0
SAMPLES = 48
MANY = 1000
LONGEST_TURN = 1.2
"""Times the CPU that a check of all records at once takes. In one turn, they would take twice that."""


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[EmbeddedValkey]:
    async with running_valkey(tmp_path) as running:
        yield running


@pytest.fixture
async def view(valkey: EmbeddedValkey) -> AsyncIterator[RouterView]:
    async with router_view(valkey.address) as one:
        assert await one.discovery.wait_first(30)
        yield one


async def test_joins_and_leaves_reach_every_router_at_once(valkey: EmbeddedValkey, record_property: Figures) -> None:
    """48 workers join and leave in turn. Times are from the agent's call to each of two routers' pools."""
    joins: list[float] = []
    leaves: list[float] = []
    names = [f"w{number}" for number in range(SAMPLES)]
    async with (
        router_view(valkey.address) as one,
        router_view(valkey.address) as two,
        workers(valkey.address, *names, joined=False) as fleet,
    ):
        views = [one, two]
        for view in views:
            assert await view.discovery.wait_first(30)
        for worker in fleet:
            started = time.monotonic()
            worker.join()
            await auntil(lambda: all(worker.id in view.pool.joined_at for view in views), JOIN_BOUND)  # noqa: B023
            joins += [view.pool.joined_at[worker.id] - started for view in views]
        assert all(view.pool.all_usable == set(names) for view in views)
        for worker in fleet:
            await worker.stop_beating()
            started = time.monotonic()
            await worker.leave()
            await auntil(lambda: all(worker.id in view.pool.removed_at for view in views), JOIN_BOUND)  # noqa: B023
            leaves += [view.pool.removed_at[worker.id] - started for view in views]
    for what, seconds in (("join", joins), ("leave", leaves)):
        middle, worst = 1000 * statistics.median(seconds), 1000 * max(seconds)
        record_property(
            "figure", f"{what} as routers see it, {SAMPLES} workers: median {middle:.1f} ms, longest {worst:.0f} ms"
        )
        assert statistics.median(seconds) < JOIN_BOUND, "a machine that is busy may delay some"


async def longest_turn(done: asyncio.Event) -> float:
    """Return the longest CPU time of this thread between two turns of the event loop, in seconds, until `done`."""
    longest, last = 0.0, time.thread_time()
    while not done.is_set():
        await asyncio.sleep(0)
        now = time.thread_time()
        longest, last = max(longest, now - last), now
    return longest


async def time_of_all_records(registry: Registry) -> float:
    """Return the seconds of CPU that it takes to read all records and to check their signatures at once."""
    began = time.thread_time()
    snapshot = await registry.snapshot()
    for worker_id, envelope in (snapshot.records or {}).items():
        verify_record(envelope, worker_id=worker_id, fleet=FLEET, secret=SECRET, allow_unsigned=False)
    return time.thread_time() - began


async def test_a_thousand_workers_join_in_one_snapshot_without_stalling_the_loop(
    valkey: EmbeddedValkey, record_property: Figures
) -> None:
    redis = connect(valkey.address)
    registry = Registry(redis, FLEET, secret=SECRET)
    try:
        for number in range(MANY):
            record = WorkerRecord(
                id=f"w{number}",
                generation=1,
                url=f"http://127.0.0.1:{number + 1}",
                models=(ModelInfo(name="m", digest="0" * 64, template="{{ messages }}" * 200),),
                slots=4,
            )
            await registry.register(record, LoadReport())
        gc.collect()
        gc.freeze()  # as router processes do once they serve: the test runner's own objects must not count
        done = asyncio.Event()
        measuring = asyncio.create_task(longest_turn(done))
        async with router_view(valkey.address) as view:
            await auntil(lambda: len(view.pool.joined_at) == MANY, 10, "all are known")
            done.set()
            longest = await measuring
        whole = await time_of_all_records(registry)
        record_property(
            "figure",
            f"{MANY} workers join in one snapshot: longest turn {1000 * longest:.0f} ms of CPU, "
            f"all records {1000 * whole:.0f} ms",
        )
        assert longest < LONGEST_TURN * whole
    finally:
        gc.unfreeze()
        await redis.aclose()


async def test_load_reports_arrive_with_each_beat(valkey: EmbeddedValkey, view: RouterView) -> None:
    async with workers(valkey.address, "a") as [worker]:
        await auntil(lambda: view.pool.usable("a"))
        await worker.stop_beating()
        assert await worker.registry.beat("a", 1, LoadReport(running=3, waiting=2))
        pooled = view.pool.get("a")
        assert pooled is not None
        await auntil(lambda: pooled.last_report == LoadReport(running=3, waiting=2))


async def test_a_worker_that_registered_before_the_router_started_joins(valkey: EmbeddedValkey) -> None:
    async with workers(valkey.address, "a") as [worker]:
        await auntil(worker.registry.snapshot)
        async with router_view(valkey.address) as late:
            assert await late.discovery.wait_first(30)
            assert late.pool.usable("a")


@pytest.mark.parametrize("how", ["dies", "hangs"])
async def test_a_worker_that_dies_without_leaving_goes_down(
    how: str, valkey: EmbeddedValkey, view: RouterView, record_property: Figures
) -> None:
    async with workers(valkey.address, "a", "b", "c") as [a, _, _]:
        await auntil(lambda: view.pool.all_usable == {"a", "b", "c"})
        started = time.monotonic()
        a.hangs = how == "hangs"
        await (a.stop_beating() if a.hangs else a.die())
        await auntil(lambda: view.discovery.liveness("a") is Liveness.DOWN, DEATH_BOUND)
        record_property("figure", f"a worker that silently {how} is down after {time.monotonic() - started:.1f} s")
        assert view.pool.all_usable == {"b", "c"}
        assert view.pool.marked_down == ["a"]


async def test_a_frozen_worker_goes_down_and_comes_back(valkey: EmbeddedValkey, view: RouterView) -> None:
    async with workers(valkey.address, "a", "b") as [a, _]:
        await auntil(lambda: view.pool.all_usable == {"a", "b"})
        a.hangs = True
        await a.stop_beating()
        await auntil(lambda: view.discovery.liveness("a") is Liveness.DOWN, DEATH_BOUND)
        a.hangs = False
        a.beat_again()
        await auntil(lambda: view.pool.usable("a"), HEAL_BOUND)


async def test_a_worker_whose_agent_lost_the_registry_stays_usable(valkey: EmbeddedValkey, view: RouterView) -> None:
    async with workers(valkey.address, "a", "b") as [a, _]:
        await auntil(lambda: view.pool.all_usable == {"a", "b"})
        await a.stop_beating()
        await auntil(lambda: a.contacts > 0, DEATH_BOUND, "the router to ask the worker itself")
        probed_at = time.monotonic()
        await auntil(lambda: time.monotonic() > probed_at + 4, 5)
        assert view.discovery.liveness("a") is Liveness.LATE
        assert view.pool.usable("a")
        assert view.pool.marked_down == []


async def test_an_emptied_registry_is_restored_and_no_worker_goes_missing(
    valkey: EmbeddedValkey, view: RouterView, record_property: Figures
) -> None:
    names = {f"w{number}" for number in range(8)}
    async with workers(valkey.address, *sorted(names)) as fleet:
        await auntil(lambda: view.pool.all_usable == names)
        async with contextlib.AsyncExitStack() as stack:
            redis = await stack.enter_async_context(connect(valkey.address))
            missed = asyncio.create_task(_watch(view, names))
            await redis.flushall()
            started = time.monotonic()
            await auntil(lambda: _whole(fleet[0], names), HEAL_BOUND, "all to have registered again")
            record_property("figure", f"emptied registry whole again after {time.monotonic() - started:.2f} s")
            missed.cancel()
            await asyncio.wait([missed])
        assert view.pool.removed_at == {}
        assert view.pool.marked_down == []


async def test_killing_the_registry_takes_no_worker_down(
    valkey: EmbeddedValkey, view: RouterView, record_property: Figures
) -> None:
    names = {f"w{number}" for number in range(8)}
    async with workers(valkey.address, *sorted(names)) as fleet:
        await auntil(lambda: view.pool.all_usable == names)
        first = valkey.pid
        assert first is not None
        started = time.monotonic()
        os.kill(first, signal.SIGKILL)
        await auntil(lambda: valkey.pid != first, 5, "it to be started again")
        await auntil(lambda: _whole(fleet[0], names), HEAL_BOUND + 1, "all to have registered again")
        record_property("figure", f"killed registry whole again after {time.monotonic() - started:.2f} s")
        await auntil(lambda: view.discovery.registry_up, HEAL_BOUND)
        assert view.pool.all_usable == names
        assert view.pool.removed_at == {}
        assert view.pool.marked_down == []
        await fleet[0].leave()
        await auntil(lambda: "w0" in view.pool.removed_at, HEAL_BOUND, "events to flow again")


async def test_an_outage_changes_nothing_and_a_leave_during_it_is_applied_after(
    valkey: EmbeddedValkey, view: RouterView
) -> None:
    async with workers(valkey.address, "a", "b") as [a, b]:
        await auntil(lambda: view.pool.all_usable == {"a", "b"})
        assert valkey.pid is not None
        os.kill(valkey.pid, signal.SIGSTOP)
        try:
            await auntil(lambda: not view.discovery.registry_up, 5)
            lost = time.monotonic()
            await auntil(lambda: time.monotonic() > lost + 4, 5)
            assert view.pool.all_usable == {"a", "b"}
        finally:
            os.kill(valkey.pid, signal.SIGCONT)
        await auntil(lambda: view.discovery.registry_up, 5)
        assert view.pool.all_usable == {"a", "b"}
        assert view.pool.marked_down == []
        await a.leave()
        await auntil(lambda: view.pool.all_usable == {"b"}, HEAL_BOUND)
        assert not b.fenced


async def test_an_older_generation_of_a_worker_is_fenced_and_never_used(
    valkey: EmbeddedValkey, view: RouterView
) -> None:
    async with workers(valkey.address, "a") as [newer]:
        await newer.stop_beating()
        newer.generation = 5
        newer.join()
        await auntil(lambda: _generation(view, "a") == 5)
        older = Worker("a", valkey.address, generation=4)
        try:
            await older.listen()
            older.join()
            await auntil(lambda: older.fenced)
        finally:
            await older.close()
        assert _generation(view, "a") == 5
        assert view.pool.usable("a")
        assert older.contacts == 0


async def test_a_worker_whose_clock_is_behind_takes_the_place_of_a_dead_one(
    valkey: EmbeddedValkey, view: RouterView
) -> None:
    async with workers(valkey.address, "a") as [dead]:
        await dead.stop_beating()
        dead.generation = 5
        dead.join()
        await auntil(lambda: _generation(view, "a") == 5)
        await dead.die()
        fresh = Worker("a", valkey.address, generation=4)
        try:
            await fresh.listen()
            fresh.join()
            await auntil(lambda: _generation(view, "a") > 5, 30)
            await auntil(lambda: view.pool.usable("a"))
            assert not fresh.fenced
        finally:
            await fresh.close()


@pytest.mark.parametrize("kind", ["a wrong signature", "no signature", "outside the networks", "another's record"])
async def test_a_forged_record_is_never_used_or_contacted(kind: str, valkey: EmbeddedValkey, view: RouterView) -> None:
    """An attacker with access to Redis writes records without the registry's scripts."""
    async with workers(valkey.address, "good", "bait", joined=False) as [good, bait], connect(valkey.address) as redis:
        keys, record = Keys.of(FLEET), bait.record
        envelope = {
            "a wrong signature": sign_record(record, fleet=FLEET, secret=b"guess"),
            "no signature": sign_record(record, fleet=FLEET, secret=None),
            "outside the networks": sign_record(
                WorkerRecord(id="bait", generation=1, url="http://192.0.2.1:80"), fleet=FLEET, secret=b"fleet secret"
            ),
            "another's record": sign_record(good.record, fleet=FLEET, secret=b"fleet secret"),
        }[kind]
        await redis.hset(keys.w, "bait", envelope)
        await redis.hset(keys.load, "bait", "1:1:ready:0:0:0:0:0:")
        good.join()
        await auntil(lambda: view.pool.usable("good"))
        await auntil(lambda: view.discovery.refusals == 1)
        await redis.hset(keys.load, "bait", "1:2:ready:0:0:0:0:0:")  # it pretends to beat
        await redis.publish(keys.ev, "load\nbait\n1:2:ready:0:0:0:0:0:")
        await redis.publish(keys.ev, f"up\nx\n99\nbait\n1:3:ready:0:0:0:0:0:\n{envelope.decode()}")
        polled = time.monotonic()
        await auntil(lambda: time.monotonic() > polled + 1.5, 3)
        assert "bait" not in view.pool.joined_at
        assert view.discovery.refusals == 1
        assert bait.contacts == 0


async def test_a_stalled_event_loop_takes_no_worker_down(valkey: EmbeddedValkey, view: RouterView) -> None:
    """The workers share this event loop, so their beats stop as well for two seconds."""
    async with workers(valkey.address, "a", "b") as fleet:
        await auntil(lambda: view.pool.all_usable == {"a", "b"})
        for worker in fleet:
            worker.hangs = True  # so that probes do not help them
        for _ in range(2):
            time.sleep(2)  # noqa: ASYNC251
            resumed = time.monotonic()
            await auntil(lambda: time.monotonic() > resumed + 1.2, 2)  # noqa: B023
        assert view.pool.marked_down == []
        await auntil(lambda: view.discovery.liveness("a") is Liveness.ALIVE, 15, "its beats to be read")
        assert view.pool.marked_down == []


async def _whole(worker: Worker, names: set[str]) -> bool:
    try:
        snapshot = await worker.registry.snapshot()
    except RegistryUnavailable:
        return False
    return set(snapshot.records or {}) == names


async def _watch(view: RouterView, names: set[str]) -> None:
    while True:
        assert view.pool.all_usable == names
        await asyncio.sleep(0.01)


def _generation(view: RouterView, worker_id: str) -> int:
    worker = view.pool.get(worker_id)
    return worker.record.generation if worker is not None else 0
