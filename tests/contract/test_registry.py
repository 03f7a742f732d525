"""Guarantees of the registry for agents and routers, on fakeredis and on a real Valkey."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest
import pytest_asyncio
import redis.asyncio as aioredis
from fakeredis import FakeAsyncRedis, FakeServer

from tests.support.registry.valkey import running_valkey
from tests.support.until import auntil
from vllama_pool.workers.registry.client import Fenced, ModelConflict, ModelStored, Registered, Registry, connect
from vllama_pool.workers.registry.keys import Keys
from vllama_pool.workers.registry.messages import (
    Event,
    ModelAck,
    ModelChanged,
    Subscribed,
    Version,
    WantChanged,
    WorkerBeat,
    WorkerDown,
    WorkerUp,
)
from vllama_pool.workers.registry.record import LoadReport, WorkerRecord, WorkerState
from vllama_pool.workers.registry.signature import verify_record

SECRET = b"fleet secret"
PATIENT = 30.0
"""Seconds for a reply: a busy machine is no failure of the registry."""
Clients = Callable[[], aioredis.Redis]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A Valkey shared by the tests of this module. Each test flushes it first."""
    async with running_valkey(tmp_path_factory.mktemp("state")) as valkey:
        yield valkey.address


@pytest.fixture(params=["fakeredis", "valkey"])
def store(request: pytest.FixtureRequest) -> Clients:
    """Returns a factory of clients of one store."""
    if request.param == "fakeredis":
        server = FakeServer()
        return lambda: FakeAsyncRedis(server=server)
    address = request.getfixturevalue("address")
    return lambda: connect(address, PATIENT)


@pytest.fixture
async def clients(store: Clients) -> AsyncIterator[Clients]:
    """Returns a factory of clients of one empty store, and closes them at the end."""
    async with contextlib.AsyncExitStack() as opened:

        def client() -> aioredis.Redis:
            made = store()
            opened.push_async_callback(made.aclose)
            return made

        await client().flushall()
        yield client


@pytest.fixture
def redis(clients: Clients) -> aioredis.Redis:
    return clients()


@pytest.fixture
def registry(redis: aioredis.Redis) -> Registry:
    return Registry(redis, "f", secret=SECRET)


def record(worker_id: str = "a", generation: int = 1, url: str = "http://127.0.0.1:8100") -> WorkerRecord:
    return WorkerRecord(id=worker_id, generation=generation, url=url, slots=4)


async def test_a_registered_worker_is_in_the_snapshot(registry: Registry) -> None:
    empty = await registry.snapshot()
    assert (empty.version, dict(empty.records or {}), dict(empty.beats)) == (Version("", 0), {}, {})
    registered = await registry.register(record(), LoadReport(running=2))
    assert isinstance(registered, Registered)
    snapshot = await registry.snapshot()
    assert snapshot.version == Version(registered.epoch, registered.seq) == Version(registered.epoch, 1)
    assert snapshot.records is not None
    assert verify_record(snapshot.records["a"], worker_id="a", fleet="f", secret=SECRET) == record()
    assert (snapshot.beats["a"].generation, snapshot.beats["a"].load) == (1, LoadReport(running=2))


async def test_records_are_sent_only_when_they_have_changed(registry: Registry) -> None:
    await registry.register(record(), LoadReport())
    first = await registry.snapshot()
    await registry.beat("a", 1, LoadReport(running=1))
    second = await registry.snapshot(first.version)
    assert second.records is None
    assert second.beats["a"].load == LoadReport(running=1)
    assert second.beats["a"].number > first.beats["a"].number
    await registry.register(record("b"), LoadReport())
    third = await registry.snapshot(first.version)
    assert third.records is not None
    assert set(third.records) == {"a", "b"}


async def test_a_beat_of_an_unknown_worker_asks_for_registration(registry: Registry, redis: aioredis.Redis) -> None:
    assert not await registry.beat("a", 1, LoadReport())
    await registry.register(record(), LoadReport())
    assert await registry.beat("a", 1, LoadReport())
    await redis.flushall()
    assert not await registry.beat("a", 1, LoadReport())
    assert isinstance(await registry.register(record(), LoadReport()), Registered)


async def test_an_older_generation_is_fenced(registry: Registry) -> None:
    newer, older = 2**62 + 1, 2**62  # equal as doubles, which is what Lua's numbers are
    await registry.register(record(generation=newer, url="http://127.0.0.1:2"), LoadReport())
    first = (await registry.snapshot()).beats["a"].number
    assert await registry.register(record(generation=older), LoadReport()) == Fenced(newer, first)
    assert await registry.beat("a", newer, LoadReport())
    fenced = await registry.register(record(generation=older), LoadReport())
    assert isinstance(fenced, Fenced)
    assert (fenced.generation, fenced.beat > first) == (newer, True)
    assert not await registry.beat("a", older, LoadReport())
    assert not await registry.deregister("a", older)
    snapshot = await registry.snapshot()
    assert snapshot.records is not None
    held = verify_record(snapshot.records["a"], worker_id="a", fleet="f", secret=SECRET)
    assert (held.generation, held.url) == (newer, "http://127.0.0.1:2")


async def test_generations_are_compared_as_numbers(registry: Registry) -> None:
    await registry.register(record(generation=9), LoadReport())
    assert isinstance(await registry.register(record(generation=10), LoadReport()), Registered)
    fenced = await registry.register(record(generation=9), LoadReport())
    assert isinstance(fenced, Fenced)
    assert fenced.generation == 10


async def test_a_newer_generation_replaces_an_older_one(registry: Registry) -> None:
    await registry.register(record(generation=1), LoadReport())
    await registry.register(record(generation=2), LoadReport())
    assert not await registry.beat("a", 1, LoadReport())
    assert not await registry.deregister("a", 1)
    assert await registry.beat("a", 2, LoadReport())


async def test_a_worker_that_leaves_is_removed_at_once(registry: Registry) -> None:
    await registry.register(record(), LoadReport())
    assert await registry.deregister("a", 1)
    assert not await registry.deregister("a", 1)
    snapshot = await registry.snapshot()
    assert snapshot.records == {}
    assert snapshot.beats == {}
    assert snapshot.version.seq == 2


async def test_every_change_is_published_as_an_event(clients: Clients, registry: Registry) -> None:
    listener = Registry(clients(), "f")
    seen: list[Event] = []
    async with aclosing(listener.events()) as events:
        seen.append(await anext(events))
        registered = await registry.register(record(), LoadReport(running=1))
        await registry.beat("a", 1, LoadReport(state=WorkerState.DRAINING, note="stopping"))
        await registry.deregister("a", 1)
        async with asyncio.timeout(30):
            seen.extend([await anext(events) for _ in range(3)])
    assert isinstance(registered, Registered)
    subscribed, up, beat, down = seen
    assert isinstance(subscribed, Subscribed)
    assert isinstance(up, WorkerUp)
    assert (up.worker_id, up.version) == ("a", Version(registered.epoch, 1))
    assert verify_record(up.envelope, worker_id="a", fleet="f", secret=SECRET) == record()
    assert up.beat.load == LoadReport(running=1)
    assert isinstance(beat, WorkerBeat)
    assert beat.beat.load == LoadReport(state=WorkerState.DRAINING, note="stopping")
    assert beat.beat.number > up.beat.number
    assert down == WorkerDown("a", Version(registered.epoch, 2), 1)


async def test_fleets_do_not_see_each_other(clients: Clients, registry: Registry) -> None:
    await registry.register(record(), LoadReport())
    other = Registry(clients(), "g", secret=SECRET)
    assert (await other.snapshot()).records == {}


async def test_a_flush_changes_the_epoch(registry: Registry, redis: aioredis.Redis) -> None:
    await registry.register(record(), LoadReport())
    before = (await registry.snapshot()).version
    await redis.flushall()
    await registry.register(record(), LoadReport())
    after = (await registry.snapshot(before)).version
    assert after.seq == before.seq
    assert after.epoch != before.epoch


async def test_scripts_are_reloaded_after_a_script_flush(registry: Registry, redis: aioredis.Redis) -> None:
    await registry.register(record(), LoadReport())
    await redis.script_flush()
    assert await registry.beat("a", 1, LoadReport())


async def test_workers_without_a_beat_for_a_minute_are_removed(registry: Registry, redis: aioredis.Redis) -> None:
    await registry.register(record("old"), LoadReport())
    await registry.register(record("new"), LoadReport())
    before = await registry.snapshot()
    beats = dict(await redis.zrange(Keys.of("f").hbz, 0, -1, withscores=True))
    await redis.zadd(Keys.of("f").hbz, {"old": beats[b"old"] - 61_000, "new": beats[b"new"] - 55_000})
    after = await registry.snapshot(before.version)
    assert after.records is not None
    assert set(after.records) == set(after.beats) == {"new"}
    assert after.collected == before.collected + 1
    assert not await registry.beat("old", 1, LoadReport())


async def test_beats_from_before_the_registrys_clock_was_set_back_are_collected(
    registry: Registry, redis: aioredis.Redis
) -> None:
    """A time that is later than now counts as now: the worker is collected a minute later, not an hour."""
    await registry.register(record(), LoadReport())
    now = (await redis.zrange(Keys.of("f").hbz, 0, -1, withscores=True))[0][1]
    await redis.zadd(Keys.of("f").hbz, {"a": now + 3_600_000.0})
    await redis.zadd(Keys.of("f").routers, {"gone": now + 3_600_000.0})
    assert "a" in (await registry.snapshot(router="one")).beats
    [(_, corrected)] = await redis.zrange(Keys.of("f").hbz, 0, -1, withscores=True)
    assert now <= corrected < now + 60_000
    assert await redis.zrange(Keys.of("f").routers, 0, -1) == [b"one"]


async def test_a_trial_from_before_the_registrys_clock_was_set_back_is_over(
    registry: Registry, redis: aioredis.Redis
) -> None:
    assert await registry.begin_trial("a", "one", 30)
    assert not await registry.begin_trial("a", "two", 30)
    held = await redis.hget(Keys.of("f").trials, "a")
    assert held is not None
    owner, _, ends = held.decode().partition(":")
    await redis.hset(Keys.of("f").trials, "a", f"{owner}:{int(ends) + 3_600_000}")
    assert await registry.begin_trial("a", "two", 30)


async def test_routers_are_counted_while_they_poll(registry: Registry, redis: aioredis.Redis) -> None:
    async def routers() -> int:
        reply = await registry.put_model("v", b"", b"")
        assert isinstance(reply, ModelStored)
        return reply.routers

    await registry.snapshot(router="r1")
    assert await routers() == 1
    await registry.snapshot(router="r2")
    assert await routers() == 2
    await registry.snapshot()
    assert await routers() == 2
    await registry.retire_router("r1")
    assert await routers() == 1
    await redis.zadd(Keys.of("f").routers, {"dead": 1.0})
    await registry.snapshot(router="r2")
    assert await routers() == 1


async def test_a_hundred_workers_register_concurrently(registry: Registry, clients: Clients) -> None:
    async with asyncio.TaskGroup() as tasks:
        for number in range(100):
            tasks.create_task(registry.register(record(f"w{number}"), LoadReport()))
    snapshot = await registry.snapshot()
    assert snapshot.records is not None
    assert len(snapshot.records) == len(snapshot.beats) == snapshot.version.seq == 100


async def test_a_state_of_a_newer_version_is_unknown_and_its_worker_stays(
    registry: Registry, redis: aioredis.Redis
) -> None:
    await registry.register(record(), LoadReport())
    await redis.hset(Keys.of("f").load, "a", "1:9:hovering:3:0:0:0:0:")
    snapshot = await registry.snapshot()
    assert snapshot.beats["a"].load == LoadReport(state=WorkerState.UNKNOWN, running=3)
    assert await registry.beat("a", 1, LoadReport())


async def test_an_unreadable_load_report_is_skipped(registry: Registry, redis: aioredis.Redis) -> None:
    await registry.register(record(), LoadReport())
    await redis.hset(Keys.of("f").load, "a", "1:9:ready:-3:0:0:0:0:")
    snapshot = await registry.snapshot()
    assert snapshot.beats == {}
    assert await registry.beat("a", 1, LoadReport())


async def test_a_model_replaces_only_the_version_that_its_writer_read(registry: Registry) -> None:
    first = await registry.put_model("v", b"", b"one")
    assert isinstance(first, ModelStored)
    assert await registry.put_model("v", b"", b"two") == ModelConflict(b"one")
    second = await registry.put_model("v", b"one", b"two")
    assert isinstance(second, ModelStored)
    held = await registry.models()
    assert held.envelopes == {"v": b"two"}
    assert held.version == second.version == (await registry.snapshot()).models != first.version
    assert await registry.put_model("v", b"one", b"") == ModelConflict(b"two")
    assert isinstance(await registry.put_model("v", b"two", b""), ModelStored)
    assert (await registry.models()).envelopes == {}
    assert await registry.put_model("w", b"expected", b"x") == ModelConflict(b"")


async def test_exactly_one_of_several_concurrent_writers_wins(registry: Registry, clients: Clients) -> None:
    writers = [Registry(clients(), "f") for _ in range(5)]
    replies = await asyncio.gather(
        *(writer.put_model("v", b"", str(number).encode()) for number, writer in enumerate(writers))
    )
    assert sum(isinstance(reply, ModelStored) for reply in replies) == 1
    won = next(str(number).encode() for number, reply in enumerate(replies) if isinstance(reply, ModelStored))
    assert (await registry.models()).envelopes == {"v": won}


async def test_model_versions_are_never_reused(registry: Registry, redis: aioredis.Redis) -> None:
    await registry.register(record(), LoadReport())
    seen = {(await registry.snapshot()).models}
    for _ in range(2):
        await registry.put_model("v", b"", b"one")
        seen.add((await registry.snapshot()).models)
        await redis.hdel(Keys.of("f").vm, "v")  # lost without an event
        seen.add((await registry.snapshot()).models)
        await redis.flushall()
    assert len(seen) == 5


async def test_a_model_change_is_published_and_acknowledged(registry: Registry) -> None:
    async with aclosing(registry.events()) as events:
        assert isinstance(await anext(events), Subscribed)
        first = await registry.put_model("v", b"", b"{\n}", request_acks=True)
        second = await registry.put_model("v", b"{\n}", b"")
        assert isinstance(first, ModelStored)
        assert isinstance(second, ModelStored)
        change = await anext(events)
        assert isinstance(change, ModelChanged)
        assert (change.wants_ack, change.after, change.key, change.envelope) == (True, first.version, "v", b"{\n}")
        assert await anext(events) == ModelChanged(False, first.version, second.version, "v", b"")
        await registry.acknowledge(first.version, "r1")
        assert await anext(events) == ModelAck(first.version, "r1")


async def test_a_subscription_survives_silence(clients: Clients, registry: Registry) -> None:
    listener = Registry(clients(), "f", silence=0.05)
    seen: list[Event] = []

    async def listen() -> None:
        async for event in listener.events():
            seen.append(event)

    task = asyncio.create_task(listen())
    try:
        await auntil(lambda: len(seen) == 1)
        pinged = asyncio.get_running_loop().time() + 0.4
        await auntil(lambda: asyncio.get_running_loop().time() > pinged or task.done())
        assert not task.done()
        await registry.register(record(), LoadReport())
        await auntil(lambda: len(seen) == 2)
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_cancellation_always_propagates(clients: Clients) -> None:
    """Cancels at every possible moment."""
    registry = Registry(clients(), "f")
    await registry.register(record(), LoadReport())

    async def beat() -> None:
        while True:
            await registry.beat("a", 1, LoadReport())

    for turns in range(2, 42):
        task = asyncio.create_task(beat())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=30)
        assert done, f"cancelled after {turns} turns of the loop, and it ran on"
        assert task.cancelled()


async def test_what_is_asked_of_a_worker_is_stored_published_and_read_with_the_snapshot(
    clients: Clients, registry: Registry
) -> None:
    listener = Registry(clients(), "f")
    async with aclosing(listener.events()) as events:
        await anext(events)
        assert await registry.put_want("static/http://x:1", b"5\n{}") == b""
        async with asyncio.timeout(30):
            assert await anext(events) == WantChanged("static/http://x:1", b"5\n{}")
    assert (await registry.snapshot()).wants == {"static/http://x:1": b"5\n{}"}


async def test_what_is_asked_changes_only_with_a_higher_revision(registry: Registry) -> None:
    high = 2**62 + 1  # equal to the next lower number as a double, which is what Lua's numbers are
    await registry.put_want("a", b"9\n{}")
    assert await registry.put_want("a", b"10\n{}") == b""
    for lower in (b"9\n{}", b"10\n[]"):
        assert await registry.put_want("a", lower) == b"10\n{}"
    assert await registry.put_want("a", b"%d\n{}" % high) == b""
    assert await registry.put_want("a", b"%d\n{}" % (high - 1)) == b"%d\n{}" % high


async def test_an_agent_restores_what_was_asked_of_its_worker_after_a_flush(
    clients: Clients, registry: Registry, redis: aioredis.Redis
) -> None:
    agent = Registry(clients(), "f", secret=SECRET)
    await agent.register(record(), LoadReport())
    await registry.put_want("a", b"5\n{}")
    await registry.put_want("b", b"6\n{}")
    assert await agent.beat("a", 1, LoadReport())
    await redis.flushall()
    assert not await agent.beat("a", 1, LoadReport())
    await agent.register(record(), LoadReport())
    assert (await registry.snapshot()).wants == {"a": b"5\n{}"}


async def test_a_worker_that_left_keeps_what_is_asked_of_it(registry: Registry) -> None:
    await registry.register(record(), LoadReport())
    await registry.put_want("a", b"5\n{}")
    await registry.deregister("a", 1)
    assert (await registry.snapshot()).wants == {"a": b"5\n{}"}


async def test_an_id_with_a_line_feed_is_refused(registry: Registry) -> None:
    with pytest.raises(ValueError, match="not a worker id"):
        await registry.put_want("a\nb", b"5\n{}")
