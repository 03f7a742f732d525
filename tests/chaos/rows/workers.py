"""Workers that are killed, frozen, slow or broken."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any

from tests.chaos.fleet import FLAGS, USUAL, Plan
from tests.chaos.load import Load
from tests.chaos.requests import Request, Result, Route
from tests.chaos.row import Rows, Scene

Page = dict[str, dict[str, Any]]
IMPATIENT = Plan(router_env={"VLLAMA_STALL_TIMEOUT": "3s"})
"""Routers that wait for a silent worker for three seconds only."""
STREAMS = (Route.CHAT_STREAM, Route.V1_STREAM)
OLLAMA = (Route.CHAT_STREAM, Route.CHAT_STREAM, Route.CHAT_STREAM, Route.CHAT)
FAIR = 1 / 3
"""A worker's share."""


def add(rows: Rows) -> None:
    rows.row("F1", "worker's machine lost while idle", "A dead worker costs nobody an error.")(killed_idle)
    rows.row("F2", "worker killed before the first token", "A request without a first byte moves to another worker.")(
        killed_before_first_token
    )
    rows.row("F3", "worker killed within plain text", "A stream goes on at another worker, no token lost or doubled.")(
        killed_within_text
    )
    rows.row(
        "F4",
        "worker killed within logprobs or JSON",
        "Where a stream cannot go on, it ends with one error line, never as a success.",
        allowed=["line"],
    )(killed_within_logprobs)
    rows.row("F5", "worker frozen while idle", "A worker that fell silent is avoided, and used again later.")(
        frozen_idle
    )
    rows.row(
        "F6",
        "worker frozen within streams",
        "A stream of a frozen worker goes on elsewhere, or ends with one error line in time.",
        plan=IMPATIENT,
        full_plan=USUAL,
        allowed=["line"],
    )(frozen_within_streams)
    rows.row("F7", "engine dead behind a living HTTP server", "A dead engine costs nobody an error, and is ejected.")(
        dead_engine
    )
    rows.row(
        "F8",
        "all workers of a model killed",
        "Clients get a 503 with Retry-After, other models are untouched, and the model returns.",
        allowed=["503", "line"],
    )(all_killed)
    rows.row("F9", "one worker flaps", "A worker that comes and goes costs nobody an error.")(flaps)
    rows.row("F10", "one worker ten times slower", "A slow worker's share falls.")(slow)


async def killed_idle(scene: Scene) -> None:
    victim = scene.fleet.workers[0]
    victim.kill_host()
    start = time.monotonic()
    async with scene.load(clients=10).running() as load:
        await scene.recovers(
            lambda: scene.fleet.everywhere(lambda page: victim.name not in page or out(page[victim.name])),
            4,
            "the dead worker is out of rotation",
            since=start,
        )
        await load.until_complete(10)


async def killed_before_first_token(scene: Scene) -> None:
    victim = scene.fleet.workers[0]
    pid = victim.vllm().pid
    # All arrive within the time of a prefill, so that none has begun to answer.
    await victim.set_faults({"kind": "die", "after_tokens": 0, "count": 1})
    async with scene.load().running(ramp=0.02) as load:
        await load.until_complete(50)
        await scene.recovers(lambda: not is_running(pid), 3, "the worker died")
        scene.recovered = None
        await scene.recovers(scene.fleet.whole, 15, "the killed worker is back")
    scene.notes.append(f"slowest answer {slowest(load):.2f} s")


async def killed_within_text(scene: Scene) -> None:
    async with scene.load(tokens=40, routes=tuple(Route)).running() as load:
        await load.until_complete(25)
        await kill_while_it_answers(scene)
        await load.until_complete(75)
    check_gap(scene, load, 2)


async def killed_within_logprobs(scene: Scene) -> None:
    def logprobs(request: Request) -> Request:
        return dataclasses.replace(request, extra={"logprobs": True})

    async with scene.load(tokens=40, routes=OLLAMA, make=logprobs).running() as load:
        await load.until_complete(25)
        await kill_while_it_answers(scene)
        killed = time.monotonic()
        await load.until_complete(60)
    lines = [one for one in load.outcomes if one.verdict.kind == "line"]
    scene.check(bool(lines), "no stream was within its answer when the worker died")
    if lines:
        scene.recovered = max(one.ended for one in lines) - killed
        scene.check(scene.recovered <= 2 * scene.patience, f"an error line came after {scene.recovered:.1f} s, not 2 s")


async def frozen_idle(scene: Scene) -> None:
    victim = scene.fleet.workers[0]
    victim.freeze_host()
    try:
        await scene.recovers(
            lambda: scene.fleet.everywhere(lambda page: out(page[victim.name])), 4, "the frozen worker is avoided"
        )
        async with scene.load().running() as load:
            await load.until_complete(100)
    finally:
        victim.thaw_host()
    await scene.recovers(scene.fleet.whole, 2, "the worker is used again")


async def frozen_within_streams(scene: Scene) -> None:
    victim = scene.fleet.workers[0]
    async with scene.load(tokens=40).running() as load:
        await load.until_complete(25)
        frozen = time.monotonic()
        victim.freeze_host()
        try:
            await asyncio.sleep(scene.size(6, 60))
        finally:
            victim.thaw_host()
    gap = max(one.gap for one in load.outcomes)
    struck = [one for one in load.outcomes if one.verdict.kind == "line" or one.gap > 1]
    scene.check(bool(struck), "no stream was within its answer when the worker froze")
    scene.recovered = max((one.ended for one in struck), default=frozen) - frozen
    scene.check(gap <= 6 * scene.patience, f"a stream stood still for {gap:.1f} s; the bound is 6 s")


async def dead_engine(scene: Scene) -> None:
    victim = scene.fleet.workers[0]
    await victim.set_faults({"kind": "dead"})
    start = time.monotonic()
    async with scene.load().running() as load:
        await scene.recovers(
            lambda: scene.fleet.everywhere(lambda page: out(page[victim.name])), 4, "it is ejected", since=start
        )
        await load.until_complete(50)


async def all_killed(scene: Scene) -> None:
    other = await scene.static_worker(*FLAGS, model="other")
    await scene.route(other=other.url)
    untouched = scene.load(clients=10, model="other")
    load = scene.load(clients=20, pause=0.1)
    async with untouched.running(), load.running():
        await load.until_complete(15)
        for worker in scene.fleet.workers:
            worker.kill_host()
        killed = time.monotonic()
        await load.until_complete(40)
        for worker in scene.fleet.workers:
            worker.start()
        for worker in scene.fleet.workers:
            await scene.until(worker.stats, 30, f"{worker.name} answers")
        returned = time.monotonic()
        await scene.recovers(
            lambda: any(one.started > returned and not one.verdict.kind and not one.lost for one in load.outcomes),
            2 + 1.2,  # an answer takes a second
            "the model answers again",
            since=returned,
        )
    refused = [one for one in load.outcomes if one.verdict.kind == "503"]
    scene.check(bool(refused), "nobody got a 503")
    scene.check(all("retry-after" in one.headers for one in refused), "a 503 came without Retry-After")
    late = [one for one in refused if one.seconds > 1 * scene.patience and one.started > killed]
    scene.check(not late, f"{len(late)} of {len(refused)} refusals came after more than a second")
    errors = [one for one in untouched.outcomes if one.verdict.result is not Result.COMPLETE]
    scene.check(not errors, f"{len(errors)} requests for another model failed")


async def flaps(scene: Scene) -> None:
    victim = scene.fleet.workers[0]
    async with scene.load().running() as load:
        await load.until_complete(25)
        before = await answered(scene)
        for _ in range(int(scene.size(2, 8))):
            await victim.set_faults({"kind": "refuse", "seconds": 2, "reset": True})
            await asyncio.sleep(2)
            await scene.until(victim.stats, 5, "the worker listens again")
            await asyncio.sleep(2)
        after = await answered(scene)
    share = (after[victim.name] - before[victim.name]) / max(1, sum(after.values()) - sum(before.values()))
    scene.notes.append(f"share of the worker that flaps {share:.1%}")
    scene.check(share <= 0.10, f"the worker that flaps got {share:.1%} of the requests; the bound is 10 %")


async def slow(scene: Scene) -> None:
    victim = scene.fleet.workers[0]
    bound = 0.2 * FAIR
    async with scene.load().running() as load:
        await load.until_complete(25)
        await victim.set_faults({"kind": "slow", "factor": 10})
        start, share = time.monotonic(), 1.0
        while time.monotonic() - start < 10 * scene.patience and share > bound:
            before = await answered(scene)
            await load.until_complete(60)
            after = await answered(scene)
            share = (after[victim.name] - before[victim.name]) / max(1, sum(after.values()) - sum(before.values()))
        scene.recovered = time.monotonic() - start
        await victim.set_faults()
    scene.notes.append(f"share of the slow worker {share:.1%}, a fair one is {FAIR:.1%}")
    scene.check(share <= bound, f"after 10 s the slow worker's share is {share:.1%}; the bound is {bound:.1%}")


# --- observations


def out(worker: dict[str, Any]) -> bool:
    """Return True if no new request goes to this worker."""
    return bool(worker["state"] != "ready" or worker["breaker"] != "closed")


def is_running(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def slowest(load: Load) -> float:
    return max((one.seconds for one in load.outcomes), default=0.0)


async def kill_while_it_answers(scene: Scene) -> None:
    """Kill a worker that runs at least five requests, most of which have begun to answer."""
    victim = scene.fleet.workers[0]
    tokens: list[int] = []
    """Counts while it runs five requests."""

    async def busy() -> bool:
        stats = await victim.stats()
        if int(stats.get("running", 0)) < 5:
            tokens.clear()
            return False
        tokens.append(int(stats["tokens"]))
        return tokens[-1] - tokens[0] >= 5 * 4

    await scene.until(busy, 10, f"{victim.name} answers five requests")
    victim.kill_vllm()


def check_gap(scene: Scene, load: Load, bound: float) -> None:
    gap = max((one.gap for one in load.outcomes if one.request.route.streams), default=0.0)
    scene.notes.append(f"longest pause within a stream {gap:.2f} s")
    scene.check(gap <= bound * scene.patience, f"a stream paused for {gap:.1f} s; the bound is {bound:g} s")
    scene.recovered = gap


async def answered(scene: Scene) -> dict[str, int]:
    """Return the number of requests that each worker has received."""
    found = {}
    for worker in scene.fleet.workers:
        counts = (await worker.stats()).get("requests", {})
        found[worker.name] = sum(counts.get(path, 0) for path in ("/v1/chat/completions", "/v1/completions"))
    return found
