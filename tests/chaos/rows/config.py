"""Edits of the routing file under load, drains, and clocks."""

from __future__ import annotations

import asyncio
import signal
import time

from tests.chaos.fleet import FLAGS
from tests.chaos.row import Rows, Scene, Skipped

BROKEN = "models: {front: {serve: m"


def add(rows: Rows) -> None:
    rows.row("F30", "clocks stepped by an hour", "No decision depends on the wall clock.")(clocks)
    rows.row("F31", "routing file broken, cut off, deleted", "The old table stays; the next good one is live at once.")(
        broken_file
    )
    rows.row("F32", "a model moved to another worker", "Running streams end where they began; new ones move.")(moved)
    rows.row("F33", "an agent stopped with 20 streams", "A drain ends no stream, and lets no new one begin.")(drained)


async def clocks(scene: Scene) -> None:
    raise Skipped("needs libfaketime, which is not installed")


async def broken_file(scene: Scene) -> None:
    await scene.route("{front: {serve: m}}")
    file = scene.fleet.routing_file
    router = scene.fleet.routers[0]
    async with scene.load(model="front").running() as load:
        await load.until_complete(25)
        for text in (BROKEN, "models: [\n", None):
            before = await router.metric("vllama_config_reload_failures_total")
            if text is None:
                await asyncio.to_thread(file.unlink)
            else:
                await asyncio.to_thread(file.write_text, text)

            async def noticed(before: float = before) -> bool:
                return await router.metric("vllama_config_reload_failures_total") > before

            await scene.recovers(noticed, 2, f"the error metric counts {text!r}")
        await load.until_complete(25)
        start = time.monotonic()
        await asyncio.to_thread(file.write_text, "models: {front: {serve: m}, fresh: {serve: m}}\n")

        async def live() -> bool:
            listed = [(await each.get("/api/tags")).json()["models"] for each in scene.fleet.routers]
            return all("fresh" in {model["name"].partition(":")[0] for model in models} for models in listed)

        await scene.recovers(live, 1, "the good file is live", since=start)
        await load.until_complete(25)


async def moved(scene: Scene) -> None:
    worker = await scene.static_worker(*FLAGS[2:], "--max-num-seqs", "64", model="n")
    await scene.route("{front: {serve: m}}", n=worker.url)
    async with scene.load(model="front").running() as load:
        await load.until_complete(25)
        for target in ("n", "m") * int(scene.size(1, 5)):
            await scene.route(f"{{front: {{serve: {target}}}}}", n=worker.url)

            async def arrived(target: str = target) -> bool:
                return (int(worker.stats()["running"]) > 20) == (target == "n")

            await scene.recovers(arrived, 4, f"requests run on {target}")
            await load.until_complete(25)


async def drained(scene: Scene) -> None:
    victim = scene.fleet.workers[0]
    async with scene.load(clients=60, tokens=40).running() as load:

        async def busy() -> bool:
            return bool((await victim.stats())["running"] >= 20)

        await scene.until(busy, 10, "20 requests run")
        start = time.monotonic()
        victim.signal(signal.SIGTERM)
        await asyncio.sleep(0.5 * scene.patience)  # the bound after which no new request may arrive
        at_bound = inference((await victim.stats()).get("requests", {}))
        latest = at_bound
        while victim.alive and time.monotonic() - start < 30:
            counts = (await victim.stats()).get("requests")
            latest = inference(counts) if counts else latest
            await asyncio.sleep(0.05)
        scene.check(not victim.alive, "the agent did not end")
        scene.recovered = time.monotonic() - start
        await load.until_complete(25)
    scene.check(latest <= at_bound, f"{latest - at_bound} requests began after the drain")


def inference(counts: dict[str, int]) -> int:
    return sum(count for path, count in counts.items() if path in ("/v1/chat/completions", "/v1/completions"))
