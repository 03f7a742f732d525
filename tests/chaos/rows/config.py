"""Edits of the routing file under load, drains, and clocks."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from tests.chaos.fleet import FLAGS, Plan
from tests.chaos.row import Rows, Scene, Skipped
from tests.chaos.rows.registry import extra
from tests.chaos.rows.workers import out
from tests.support.clocks.shifted_clock import HOUR, can_shift

BROKEN = "models: {front: {serve: m"
GOOD = "reload: {orphans: allow}\nmodels: {front: {serve: m}, fresh: {serve: m}}\n"
CLOCKS = Plan(clocks=can_shift())
STEPS: tuple[Mapping[str, int], ...] = (
    {"registry": 1},
    {"registry": -1},
    {"routers": 1, "agents": -1},
    {"registry": 1, "routers": 1, "agents": 1},
    {"registry": -1, "routers": -1, "agents": -1},
)
"""Hours of each clock, at the beginning and then. Each step stays in effect until the next one."""


def add(rows: Rows) -> None:
    rows.row("F30", "clocks stepped by an hour", "No decision depends on the wall clock.", plan=CLOCKS)(clocks)
    rows.row("F31", "routing file broken, cut off, deleted", "The old table stays; the next good one is live at once.")(
        broken_file
    )
    rows.row("F32", "a model moved to another worker", "Running streams end where they began; new ones move.")(moved)
    rows.row("F33", "an agent stopped with 20 streams", "A drain ends no stream, and lets no new one begin.")(drained)


async def clocks(scene: Scene) -> None:
    """Step the clocks of registry, routers and agents: one, two and all of them, there and back."""
    if not can_shift():
        raise Skipped("needs a C compiler on Linux, to shift clocks")
    fleet = scene.fleet
    async with scene.load().running() as load:
        await load.until_complete(25)
        for step in STEPS:
            for kind, clock in fleet.clocks.items():
                clock.shift(HOUR * step.get(kind, 0))
            await scene.until(lambda step=step: told(scene, step), 10, f"the processes have clocks at {step}")  # type: ignore[misc]
            await scene.holds(fleet.whole, scene.size(1, 12), f"all workers serve, with clocks at {step}")
            await load.until_complete(25)
        late = extra(scene, "late")
        late.start()
        await scene.until(late.stats, 20, "a worker with a late clock answers")
        await scene.recovers(
            lambda: fleet.everywhere(lambda page: "late" in page and not out(page["late"])),
            5,
            "routers use a worker that joined",
        )
        await load.until_complete(25)


async def told(scene: Scene, step: Mapping[str, int]) -> bool:
    """Return True if the processes tell the times that they should have."""
    fleet = scene.fleet
    times = {
        "registry": await fleet.valkey.time(),
        "routers": parsedate_to_datetime((await fleet.routers[0].get("/livez")).headers["date"]).timestamp(),
        "agents": parsedate_to_datetime(await fleet.workers[0].date()).timestamp(),
    }
    off = [told - time.time() - HOUR * step.get(kind, 0) for kind, told in times.items()]
    return max(map(abs, off)) < 5 * scene.patience


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
        await asyncio.to_thread(file.write_text, GOOD)

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
    async with scene.load(clients=75, tokens=40).running() as load:

        async def busy() -> bool:
            return bool((await victim.stats()).get("running", 0) >= 20)

        await scene.until(busy, 10, "20 requests run")

        def knows(page: Mapping[str, Mapping[str, object]]) -> bool:
            return victim.name not in page or page[victim.name]["state"] != "ready"

        start = time.monotonic()
        victim.signal(signal.SIGTERM)
        await asyncio.sleep(0.5 * scene.patience)  # the bound after which no new request may arrive
        await scene.until(lambda: scene.fleet.everywhere(knows), 5, "routers know of the drain")
        counts = (await victim.stats()).get("requests")
        at_bound = latest = inference(counts) if counts else None
        while victim.alive and time.monotonic() - start < 30:
            counts = (await victim.stats()).get("requests")
            latest = inference(counts) if counts else latest
            at_bound = latest if at_bound is None else at_bound
            await asyncio.sleep(0.05)
        scene.check(not victim.alive, "the agent did not end")
        scene.recovered = time.monotonic() - start
        await load.until_complete(25)
    scene.check(latest == at_bound, f"requests began after the drain: {at_bound} before, then {latest}")


def inference(counts: dict[str, int]) -> int:
    return sum(count for path, count in counts.items() if path in ("/v1/chat/completions", "/v1/completions"))
