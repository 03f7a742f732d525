"""Fifty reloads in half a minute under 200 streams, and the pauses that a reload of 5,000 models makes."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from pathlib import Path

import pytest

from tests.support.fleet.reloads import Clients, Measured, Save, connected, rename, running, write, write_in_pieces
from tests.support.fleet.streams import Figures
from vllama_pool.config.routing.table import RoutingTable, load
from vllama_pool.config.routing.watch import FileWatch, Watched
from vllama_pool.router.last_table import LastTable
from vllama_pool.router.process import collect_less_garbage
from vllama_pool.router.reload import Fleet, Reloader, ReloadRequest
from vllama_pool.router.routing.live import LiveRoutes
from vllama_pool.router.routing.resolve import ModelRoutes

pytestmark = pytest.mark.load

STREAMS = 200
PERIOD = 0.6
"""Seconds: fifty in half a minute, on a machine that is fast enough."""
PATIENCE = 3.0
"""Factor for bounds of time, for a machine that others use too."""


def saves() -> list[Save | None]:
    """Thirty written, five renamed, five written in pieces, ten broken, in any order."""
    every: list[Save | None] = [*[write] * 30, *[rename] * 5, *[write_in_pieces] * 5, *[None] * 10]
    random.Random(11).shuffle(every)
    return every


@pytest.mark.timeout(300)
async def test_fifty_reloads_in_half_a_minute_disturb_none_of_200_streams(
    tmp_path: Path, record_property: Figures
) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text("models: {m: {serve: x}}\n")
    measured = Measured()
    with running(tmp_path, file) as serve:
        async with connected(serve, file) as router, Clients(router).running(STREAMS) as clients:
            began = time.monotonic()
            await measured.exercise(router, saves(), PERIOD)
            took = time.monotonic() - began
        requests = [one for one in serve.requests().values() if one["operation"] == "chat"]
    effects = sorted(measured.effects)
    record_property(
        "figure",
        f"{len(effects)} reloads and 10 refused files in {took:.0f} s under {STREAMS} streams: save to effect in 3 "
        f"processes {effects[len(effects) // 2]:.2f} s in the middle, {effects[-1]:.2f} s at most; "
        f"{clients.complete} answers complete, {len(clients.broken)} broken; "
        f"{clients.longest_pause:.2f} s between two lines at most, of 0.2 s",
    )
    assert clients.broken == []
    assert clients.complete >= STREAMS
    assert {(one["outcome"], one["attempts"]) for one in requests} == {("complete", 1)}
    assert {one["served"] for one in requests} == {"x", "y"}
    assert effects[len(effects) // 2] <= 1.0 * PATIENCE


def large_table(number: int, *, changes_all: bool) -> str:
    """Return 5,000 entries. All of them depend on the number, or one."""
    entry = """\
  model-{0}:
    serve: [{{model: org/served-{1}, weight: 3}}, {{model: org/other-{0}}}]
    aliases: [alias-{0}, "team/alias-{0}:8b"]
    options: {{temperature: 0.7, top_k: 40}}
    limits: {{concurrency: 8, queue: 16}}
    fallback: {{no_worker: [org/spare]}}
"""
    shifts = (number if changes_all or index == 2500 else 0 for index in range(5000))
    return "models:\n" + "".join(entry.format(index, index + 10_000 * shift) for index, shift in enumerate(shifts))


@pytest.mark.parametrize(("changes_all", "limit"), [(False, 1.0), (True, 2.5)], ids=["one entry", "all entries"])
async def test_a_reload_of_5000_models_takes_effect_in_time_and_does_not_stop_the_event_loop(
    tmp_path: Path, record_property: Figures, changes_all: bool, limit: float
) -> None:
    """`limit`: seconds from the save to the effect, of the fastest one. Pauses count in CPU time of the process: the
    machine may run others for as long as it likes."""
    file = tmp_path / "routing.yaml"
    file.write_text(large_table(0, changes_all=changes_all))
    watch, threshold = FileWatch(Watched((file,))), gc.get_threshold()
    began = time.process_time()
    first = load(file)
    blocking = time.process_time() - began
    routes = LiveRoutes(first, lambda table, before: ModelRoutes(table, random.Random(1), previous=before))
    reloader = Reloader(first, watch, (routes.prepare,), Fleet(no_orphans, no_revisions), ReloadRequest(), LastTable())
    collect_less_garbage()
    running = asyncio.create_task(reloader.run())
    pauses, effects = [], []
    for number in range(1, 6):
        file.write_text(large_table(number, changes_all=changes_all))
        saved, last = time.monotonic(), time.process_time()
        while reloader.state.reloads < number:
            await asyncio.sleep(0.001)
            now = time.process_time()
            pauses.append(now - last)
            last = now
        effects.append(time.monotonic() - saved)
    running.cancel()
    gc.unfreeze()
    gc.set_threshold(*threshold)
    record_property(
        "figure",
        f"a reload of 5,000 models, {'all' if changes_all else 'one'} of them changed, takes effect in "
        f"{min(effects):.2f} s, at most {max(effects):.2f} s, and pauses the event loop for "
        f"{max(pauses) * 1000:.0f} ms at most (loaded in the event loop it would be {blocking * 1000:.0f} ms)",
    )
    assert max(pauses) < blocking / 2
    assert min(effects) <= limit * PATIENCE


async def no_orphans(table: RoutingTable) -> list[str]:
    return []


async def no_revisions() -> list[str]:
    return []
