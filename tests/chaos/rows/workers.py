"""Workers that are killed, frozen, slow or broken."""

from __future__ import annotations

import asyncio

from tests.chaos.requests import Route
from tests.chaos.row import Rows, Scene


def add(rows: Rows) -> None:
    @rows.row(
        "F1", "worker's machine lost while idle", "A dead worker is found by its silence, and costs nobody an error."
    )
    async def killed_idle(scene: Scene) -> None:
        victim = scene.fleet.workers[0]
        victim.kill_host()
        gone = lambda page: victim.name not in page or _out(page[victim.name])  # noqa: E731
        async with scene.load(clients=10).running() as load:
            await scene.recovers(lambda: scene.fleet.everywhere(gone), 4, "the dead worker is out of rotation")
            await load.until_complete(10)

    @rows.row("F2", "worker killed before the first token", "A request moves to another worker before its first byte.")
    async def killed_before_first_token(scene: Scene) -> None:
        victim = scene.fleet.workers[0]
        await victim.set_faults({"kind": "die", "after_tokens": 0, "count": 1})
        async with scene.load().running() as load:
            await load.until_complete(100)
            slowest = max(outcome.seconds for outcome in load.outcomes)
            scene.notes.append(f"slowest answer {slowest:.2f} s")
            await scene.recovers(scene.fleet.whole, 15, "the killed worker is back")

    @rows.row(
        "F3", "worker killed within plain text", "A stream goes on at another worker, without a lost or doubled token."
    )
    async def killed_within_text(scene: Scene) -> None:
        victim = scene.fleet.workers[0]
        async with scene.load(tokens=40).running() as load:
            await load.until_complete(25)
            victim.kill_vllm()
            await load.until_complete(75)
        streams = [one for one in load.outcomes if one.request.route in (Route.CHAT_STREAM, Route.V1_STREAM)]
        gap = max(one.gap for one in streams)
        scene.notes.append(f"longest pause within a stream {gap:.2f} s")
        scene.check(gap <= 2 * scene.patience, f"a stream paused for {gap:.1f} s; the bound is 2 s")

    @rows.row(
        "F5", "worker frozen while idle", "A worker that stopped beating is avoided, and used again when it beats."
    )
    async def frozen_idle(scene: Scene) -> None:
        victim = scene.fleet.workers[0]
        victim.freeze_host()
        try:
            out = lambda page: _out(page[victim.name])  # noqa: E731
            await scene.recovers(lambda: scene.fleet.everywhere(out), 4, "the frozen worker is avoided")
            async with scene.load().running() as load:
                await load.until_complete(100)
        finally:
            victim.thaw_host()
        await scene.recovers(scene.fleet.whole, 2, "the worker is used again")
        await asyncio.sleep(0)


def _out(worker: dict[str, object]) -> bool:
    return worker["state"] != "ready" or worker["breaker"] != "closed"
