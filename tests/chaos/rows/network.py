"""Connections to workers that are cut off, cut into bytes, or closed while idle."""

from __future__ import annotations

from tests.chaos.fault_proxy import Faults
from tests.chaos.fleet import FLAGS
from tests.chaos.requests import Route
from tests.chaos.row import Rows, Scene


def add(rows: Rows) -> None:
    rows.row("F18", "a worker's address answers no SYN", "An unreachable worker costs the time-out once.")(no_syn)
    rows.row("F29", "a worker closes idle connections", "A stale connection costs nobody an error.")(stale)
    rows.row(
        "F39",
        "a worker's stream cut into bytes, and garbage in it",
        "The text is the same however TCP cuts it; garbage ends in one error line.",
        allowed=["line", "500", "502"],
    )(sliced)


async def no_syn(scene: Scene) -> None:
    worker = await scene.static_worker(*FLAGS)
    proxy = await scene.proxy(worker.port)
    await scene.route(cut=f"http://127.0.0.1:{proxy.port}")
    await proxy.blackhole()
    async with scene.load(routes=(Route.CHAT_STREAM, Route.V1_STREAM)).running() as load:
        await load.until_complete(100)
    first = max((one.first - one.started for one in load.outcomes if one.first), default=0.0)
    scene.recovered = first
    scene.notes.append(f"slowest first byte {first:.2f} s")
    scene.check(first <= 1.5 * scene.patience, f"a first byte took {first:.1f} s: 1 s and the usual 0.2 s")


async def stale(scene: Scene) -> None:
    worker = await scene.static_worker(
        *("--tokens-per-second", "1000", "--ttft", "0", "--max-num-seqs", "64"),
        model="idle",
        VLLM_HTTP_TIMEOUT_KEEP_ALIVE="0.2",
    )
    await scene.route(idle=worker.url)
    before = worker.stats()["requests"]
    # Pauses around the worker's time-out, so that requests meet the end of a connection.
    loads = [scene.load(clients=8, model="idle", tokens=2, pause=pause) for pause in (0.19, 0.2, 0.205, 0.21)]
    for load in loads:
        async with load.running():
            await load.until_complete(int(scene.size(50, 250)))
    scene.check(worker.stats()["requests"] != before, "the worker got no request")


async def sliced(scene: Scene) -> None:
    worker = await scene.static_worker(*FLAGS, model="sliced")
    proxy = await scene.proxy(worker.port)
    await scene.route(sliced=f"http://127.0.0.1:{proxy.port}")
    proxy.to_client = Faults(slices=True)
    async with scene.load(clients=6, model="sliced").running() as load:
        await load.until_complete(int(scene.size(12, 60)))
    scene.check(all(not one.verdict.kind for one in load.outcomes), "a stream in bytes ended with an error")
    proxy.to_client = Faults()
    from vllama_pool.workers.simulated.faults import Garbage

    worker.set_faults([Garbage(where="event", after_tokens=3, count=5)])
    async with scene.load(clients=5, model="sliced", routes=(Route.CHAT_STREAM,)).running() as broken:
        await broken.until_complete(10)
    scene.check(any(one.verdict.kind for one in broken.outcomes), "no client met the garbage")
