"""More requests than places, requests that kill workers, and workers that refuse."""

from __future__ import annotations

import asyncio
import json
import time

from tests.chaos.fleet import FLAGS, Fleet, Plan
from tests.chaos.load import Load, exchange
from tests.chaos.requests import Request, Result, Route
from tests.chaos.row import Rows, Scene
from tests.chaos.rows.workers import answered

SMALL = Plan(
    worker_flags=("--max-num-seqs", "4", "--max-model-len", "4096", "--tokens-per-second", "50", "--ttft", "0.05")
)
PLACES = 12
BUSY = "server busy, please try again.  maximum pending requests exceeded"
MARKER = "a request that kills"
DEADLY = Plan(worker_flags=(*FLAGS, "--fault", json.dumps({"kind": "die", "marker": MARKER}), "--death", "abort"))
"""The marker kills each engine, also one that was started anew."""
QUEUE = 512
"""Waiting requests per router."""
FAILURES = "vllama_attempt_failures_total"


def add(rows: Rows) -> None:
    rows.row(
        "F26",
        "four times as many requests as places",
        "Goodput stays, the queue is bounded, and those beyond it get Ollama's 503 with Retry-After.",
        plan=SMALL,
        allowed=["503"],
    )(saturated)
    rows.row(
        "F27",
        "a request that kills each worker",
        "It kills two engines at most. Its client alone gets an error; streams on these engines go on elsewhere.",
        plan=DEADLY,
    )(poison)
    rows.row(
        "F28",
        "all workers answer 503",
        "Routers do not multiply requests by retries.",
        allowed=["503"],
    )(retry_storm)


async def saturated(scene: Scene) -> None:
    seconds = scene.size(3, 15)
    peak = await goodput(scene, PLACES, seconds)
    crowded = await goodput(scene, 4 * PLACES, scene.size(5, 60))
    scene.notes.append(f"goodput {crowded:.1f} of {peak:.1f} requests/s")
    scene.check(crowded >= 0.9 * peak, f"goodput fell to {crowded / peak:.0%} of the peak")
    if not scene.full:
        return
    # More than both queues hold. The answers are short, so that the queue drains.
    crowd = scene.load(clients=2 * QUEUE + 200, tokens=5, routes=(Route.CHAT_STREAM,))
    async with crowd.running(ramp=2):
        await crowd.until_complete(1500, 120)
    refused = [one for one in crowd.outcomes if one.verdict.kind == "503"]
    scene.check(bool(refused), "no request was refused")
    scene.check(all(BUSY in one.verdict.why for one in refused), "a refusal has another text than Ollama's")
    scene.check(all("retry-after" in one.headers for one in refused), "a refusal has no Retry-After")


async def goodput(scene: Scene, clients: int, seconds: float) -> float:
    """Return complete requests per second once all clients are there."""
    load = scene.load(clients=clients)
    async with load.running():
        await load.until_complete(clients)
        before, start = complete(load), time.monotonic()
        await asyncio.sleep(seconds)  # the measurement
        return (complete(load) - before) / (time.monotonic() - start)


def complete(load: Load) -> int:
    return sum(one.verdict.result is Result.COMPLETE for one in load.outcomes)


async def poison(scene: Scene) -> None:
    running, victim = scene.fleet, Request(f"{MARKER} them all", 10, Route.CHAT)
    restarts, resumed = await crashes(running), await resumptions(running)
    async with scene.load().running() as load:
        await load.until_complete(50, 60)
        first = await exchange(victim, running.ports)
        await load.until_complete(50, 60)
        again = [await exchange(victim, ports) for ports in (running.ports, running.ports[::-1])]
        await load.until_complete(50, 60)
    await scene.until(running.whole, 60, "the crashed workers are back")
    lost, gone_on = await crashes(running) - restarts, await resumptions(running) - resumed
    kinds = [one.verdict.kind for one in (first, *again)]
    scene.notes.append(f"{lost} engines lost, {gone_on:.0f} streams went on elsewhere; its client saw {kinds}")
    scene.check(0 < lost <= 2, f"{lost} engines were lost; the bound is 2")
    scene.check(gone_on > 0, "no stream was on a worker that the request killed")
    scene.check(
        first.verdict.result is Result.ERROR and kinds[1:] == ["422"] * len(again),
        f"not one well-formed error, and then a refusal by each router: {kinds}, {first}",
    )


async def crashes(running: Fleet) -> int:
    """Return how often engines were started anew."""
    pages = await asyncio.gather(*(router.workers() for router in running.routers))
    return max(sum(int(one["restarts"]) for one in page.values()) for page in pages)


async def resumptions(running: Fleet) -> float:
    return sum([await router.metric("vllama_resumed_total") for router in running.routers])


async def retry_storm(scene: Scene) -> None:
    routers = scene.fleet.routers
    for worker in scene.fleet.workers:
        await worker.set_faults({"kind": "status", "status": 503})
    before = sum((await answered(scene)).values())
    failed_before = [await router.metric(FAILURES) for router in routers]
    load = scene.load(clients=20, pause=0.1)
    async with load.running():
        await asyncio.sleep(scene.size(3, 10))
    attempts = sum((await answered(scene)).values()) - before
    scene.notes.append(f"{attempts} attempts for {len(load.outcomes)} requests at {len(routers)} routers")
    counted = 0.0
    for router, failures in zip(routers, failed_before, strict=True):
        sent = sum(one.port == router.port for one in load.outcomes)
        own = await router.metric(FAILURES) - failures
        counted += own
        scene.check(
            own <= 1.2 * sent + 3, f"{router.name}: {own:.0f} attempts for {sent} requests; the bound is 1.2 and 3"
        )
    scene.check(attempts == counted, f"workers got {attempts} attempts, and routers counted {counted:.0f}")
    for worker in scene.fleet.workers:
        await worker.set_faults()
    after = scene.load(clients=10)
    start = time.monotonic()
    async with after.running():
        await scene.recovers(lambda: complete(after) > 0, 7, "requests are answered again", since=start)
