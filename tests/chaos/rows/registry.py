"""A registry that is killed, frozen, emptied, cut off or forged."""

from __future__ import annotations

import asyncio
import signal
import statistics
import time

from redis.asyncio import Redis

from tests.chaos.failover import cluster_of_six, sentinels
from tests.chaos.fleet import FLAGS, SECRET, Plan
from tests.chaos.load import exchange
from tests.chaos.processes import Agent
from tests.chaos.requests import Request, Route
from tests.chaos.row import Rows, Scene
from tests.chaos.rows.workers import Page, out
from tests.chaos.waiting import Condition
from vllama_pool.workers.registry.keys import Keys
from vllama_pool.workers.registry.record import ModelInfo, WorkerRecord
from vllama_pool.workers.registry.signature import sign_record

SENTINELS = Plan(registry=sentinels)
CLUSTER = Plan(registry=cluster_of_six)
ROUNDS = 4
"""Measurements with and without Redis, in turn."""
SILENCE = 1.5
"""Seconds after which routers know that Redis does not answer."""


def add(rows: Rows) -> None:
    rows.row("F11", "Redis killed", "Routers serve from what they know; the registry is whole soon after.")(killed)
    rows.row("F12", "Redis frozen", "The request path does not touch Redis.")(frozen)
    rows.row("F13", "FLUSHALL under load", "Agents write their records again; no router forgets a worker.")(flushed)
    rows.row(
        "F14",
        "primary of Sentinels killed",
        "The fleet follows the new primary, and loses nothing meanwhile.",
        plan=SENTINELS,
    )(failed_over)
    rows.row(
        "F15",
        "owner of the fleet's slot in a cluster killed",
        "The fleet follows the new owner, and loses nothing meanwhile.",
        plan=CLUSTER,
    )(failed_over)
    rows.row("F16", "routers cut off from Redis", "A worker that joins or leaves meanwhile is known soon after.")(
        routers_cut_off
    )
    rows.row("F17", "an agent cut off from Redis", "A healthy worker is kept, because the router asks it itself.")(
        agent_cut_off
    )
    rows.row("F34", "a second agent with a worker's name", "The newer generation serves; the old one is never listed.")(
        two_generations
    )
    rows.row("F35", "forged registrations", "Routers connect only to workers that the fleet's secret signed.")(forged)


async def killed(scene: Scene) -> None:
    async with scene.load().running() as load:
        await load.until_complete(25)
        scene.fleet.valkey.kill()
        await scene.holds(table_whole(scene), scene.size(3, 10), "routers know all workers")
        scene.fleet.valkey.start()
        await scene.fleet.valkey.wait_ready()
        await scene.recovers(lambda: registered(scene), 2, "the registry is whole")
        await scene.holds(table_whole(scene), 1, "routers know all workers")


async def frozen(scene: Scene) -> None:
    fast = await scene.static_worker("--tokens-per-second", "1000", "--ttft", "0", model="fast")
    await scene.route(fast=fast.url)
    usual, during = [], []
    async with scene.load(clients=20).running() as load:
        await load.until_complete(25)
        await freeze(scene, scene.size(3, 30))
        await load.until_complete(25)
    for _ in range(ROUNDS):  # what else changes on the machine affects both
        await scene.holds(table_whole(scene), SILENCE, "routers know all workers")
        usual += await latencies(scene)
        during += await freeze(scene, SILENCE)
    # The fastest ones say it: the others wait for the machine.
    before, now = (statistics.fmean(sorted(times)[: len(times) // 20]) for times in (usual, during))
    added, most = now - before, max(during) - max(usual)
    scene.notes.append(
        f"the fastest requests took {before * 1000:.2f} ms, {added * 1000:+.2f} ms while Redis was frozen"
    )
    scene.check(most <= 0.5, f"a request took {max(during):.1f} s while Redis was frozen")
    scene.check(added <= 0.001 * scene.patience, f"a frozen Redis added {added * 1000:.1f} ms to a request")


async def freeze(scene: Scene, seconds: float) -> list[float]:
    """Freeze Redis for so long, and measure requests at the end of it. Wait until the fleet is whole again."""
    valkey = scene.fleet.valkey
    valkey.signal(signal.SIGSTOP)
    try:
        await scene.holds(table_whole(scene), seconds, "routers know all workers")
        measured = await latencies(scene)
    finally:
        valkey.signal(signal.SIGCONT)
    await scene.recovers(scene.fleet.whole, 2, "the fleet is whole")
    return measured


async def flushed(scene: Scene) -> None:
    async with scene.load().running() as load:
        await load.until_complete(25)
        scene.check(await registered(scene), "the registry was not whole before")
        scene.check(await flush(scene) == [], "FLUSHALL left the records")
        await scene.recovers(lambda: registered(scene), 2, "the registry is whole")
        await scene.holds(table_whole(scene), scene.size(2, 10), "routers know all workers")


async def failed_over(scene: Scene) -> None:
    replicas = scene.fleet.replicas
    assert replicas is not None, "the plan has no registry that fails over"
    joining = extra(scene, "joining")
    async with scene.load().running() as load:
        await load.until_complete(25)
        await replicas.primary.kill()
        start = time.monotonic()
        joining.start()
        await scene.recovers(
            lambda: scene.fleet.everywhere(lambda page: "joining" in page and not out(page["joining"])),
            10 + 4,  # the worker's own start
            "routers see a worker that joined after the failover",
            since=start,
        )
        await scene.holds(table_whole(scene), scene.size(1, 10), "routers know all workers")
        await load.until_complete(25)


async def routers_cut_off(scene: Scene) -> None:
    fleet = scene.fleet
    joining = extra(scene, "joining")
    leaver = fleet.workers[2]
    async with scene.load().running() as load:
        await load.until_complete(25)
        await fleet.registry_of_routers.blackhole()
        joining.start()
        leaver.kill_host()
        await scene.until(joining.stats, 20, "the joining worker answers")
        await scene.until(lambda: registered(scene, "joining"), 20, "the joining worker is in the registry")
        await load.until_complete(25)
        fleet.registry_of_routers.heal()

        def in_sync(page: Page) -> bool:
            joined = "joining" in page and page["joining"]["state"] == "ready"
            return joined and (leaver.name not in page or out(page[leaver.name]))

        await scene.recovers(lambda: fleet.everywhere(in_sync), 1, "routers know who joined and who left")
        await load.until_complete(25)


async def agent_cut_off(scene: Scene) -> None:
    first = scene.fleet.workers[0]
    async with scene.load().running() as load:
        await load.until_complete(25)
        await scene.fleet.registry_of_first.blackhole()
        await scene.holds(table_whole(scene), scene.size(6, 30), "routers know all workers")
        before = (await first.stats())["tokens"]
        await load.until_complete(75)
        scene.check((await first.stats())["tokens"] > before, "the healthy worker got no request")
        scene.fleet.registry_of_first.heal()
        await scene.recovers(scene.fleet.whole, 2, "the fleet is whole")


async def two_generations(scene: Scene) -> None:
    old = scene.fleet.workers[0]
    new = extra(scene, old.name)

    def newest(page: Page) -> bool:
        return old.name in page and page[old.name]["url"] == new.url and page[old.name]["state"] == "ready"

    async with scene.load().running() as load:
        await load.until_complete(25)
        # The new one starts while the old one lives.
        new.start()
        await scene.until(new.stats, 20, "the new worker answers")
        await scene.recovers(lambda: scene.fleet.everywhere(newest), 5, "routers use the new generation")
        await scene.holds(lambda: scene.fleet.everywhere(newest), scene.size(3, 10), "the new generation is listed")
    new.kill_host()
    old.kill_host()


async def forged(scene: Scene) -> None:
    visits = 0

    def count(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1
        writer.close()

    trap = await asyncio.start_server(count, "127.0.0.1", 0)
    scene.resources.callback(trap.close)
    url = f"http://127.0.0.1:{trap.sockets[0].getsockname()[1]}"
    before = await refused(scene)

    async def counted() -> bool:
        return await refused(scene) > before

    async with Redis(port=scene.fleet.valkey.port) as redis, scene.load().running() as load:
        await load.until_complete(25)
        await forge(redis, "unsigned", url, None)
        await forge(redis, "wrongly-signed", url, b"another secret of 32 characters!")
        await forge(redis, "elsewhere", "http://203.0.113.7:80", SECRET.encode())
        await scene.recovers(counted, 3, "the alarm metric counts them")
        await load.until_complete(50)
        await redis.hdel(Keys.of("default").w, "unsigned", "wrongly-signed", "elsewhere")
    listed = [name for router in scene.fleet.routers for name in await router.workers()]
    scene.check(not {"unsigned", "wrongly-signed", "elsewhere"} & set(listed), "a forged worker is listed")
    scene.check(visits == 0, f"routers connected {visits} times to a forged worker")


# --- observations


def table_whole(scene: Scene) -> Condition:
    names = {worker.name for worker in scene.fleet.workers}
    return lambda: scene.fleet.everywhere(lambda page: names <= page.keys())


async def registered(scene: Scene, *names: str) -> bool:
    """Return True if the registry has the records of these workers, or of all."""
    wanted = names or tuple(worker.name for worker in scene.fleet.workers)
    async with Redis(port=scene.fleet.valkey.port, decode_responses=True) as redis:
        found = set(await redis.hkeys(Keys.of("default").w))
    return found.issuperset(wanted)


async def flush(scene: Scene) -> list[str]:
    """Empty the registry. Returns the records that are left, before an agent can write its own again."""
    async with (
        Redis(port=scene.fleet.valkey.port, decode_responses=True) as redis,
        redis.pipeline(transaction=True) as commands,
    ):
        commands.flushall()
        commands.hkeys(Keys.of("default").w)
        _, left = await commands.execute()
    return list(left)


async def latencies(scene: Scene) -> list[float]:
    """Return the times of requests of one token to a fast worker, in seconds."""
    times = []
    for number in range(int(scene.size(40, 100))):
        outcome = await exchange(Request(f"latency {number}", 1, Route.CHAT, "fast"), scene.fleet.ports)
        scene.check(not outcome.lost, f"lost: {outcome}")
        times.append(outcome.seconds)
    return times


def extra(scene: Scene, name: str) -> Agent:
    """Return a further agent, which ends with the row."""
    like = scene.fleet.workers[1]
    folder = scene.fleet.folder / f"extra-{time.monotonic_ns()}"
    folder.mkdir()
    made = Agent(name, folder, {**like.env, "VLLAMA_STATE_DIR": str(folder / "state")}, FLAGS)
    scene.resources.callback(made.kill_host)
    return made


async def refused(scene: Scene) -> float:
    return min([await router.metric("vllama_refused_records_total") for router in scene.fleet.routers])


async def forge(redis: Redis, name: str, url: str, secret: bytes | None) -> None:
    """Write a record and a beat without the registry's scripts."""
    keys = Keys.of("default")
    model = ModelInfo(name="m", capabilities=("completion",), has_template=True)
    record = WorkerRecord(id=name, generation=1, url=url, models=(model,), slots=32)
    await redis.hset(keys.w, name, sign_record(record, fleet="default", secret=secret))
    await redis.hset(keys.load, name, "1:1:ready:0:0:0:0:0:")
    await redis.hincrby(keys.meta, "seq", 1)
