"""A long run at 70 % load with a worker killed every 30 s: memory of the routers, and requests lost, as a picture.

python -m tests.chaos --soak 20m --picture docs/chaos-soak.svg
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.bench.plot import Panel, Series, svg
from tests.chaos.fleet import Fleet, Plan, fleet
from tests.chaos.load import Load
from tests.chaos.requests import Result
from tests.chaos.waiting import wait_until

KILLS = 30.0
"""Seconds between two kills."""
SETTLED = 300.0
"""Seconds after which memory must be flat; a quarter of a shorter run."""
TOLERANCE = 0.05
MIB = 1 << 20
SLOTS = 16
PLAN = Plan(
    worker_flags=(
        *("--max-num-seqs", str(SLOTS), "--max-model-len", "4096", "--tokens-per-second", "20", "--ttft", "0.1"),
    )
)
CLIENTS = round(0.7 * SLOTS * 3)


@dataclass
class Soak:
    """What a run has seen. Times are seconds since its start."""

    memory: list[tuple[float, tuple[int, ...]]] = field(default_factory=list)
    """Bytes of each router, every second."""
    answered: list[tuple[float, int]] = field(default_factory=list)
    """Requests that have ended."""
    lost: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)
    complete: int = 0

    def growth(self) -> list[float]:
        """Return the relative change of each router's memory from the end of its first part to the end."""
        seconds = self.memory[-1][0]
        settled = min(SETTLED, seconds / 4)
        late = [sizes for at, sizes in self.memory if at >= settled]
        part = max(1, len(late) // 10)
        first, last = late[:part], late[-part:]
        return [mean([one[i] for one in last]) / mean([one[i] for one in first]) - 1 for i in range(len(late[0]))]

    def problems(self) -> list[str]:
        found = [f"{len(self.lost)} requests lost: {self.lost[0]}"] if self.lost else []
        found += [f"{len(self.errors)} errors: {self.errors[0]}"] if self.errors else []
        for index, growth in enumerate(self.growth()):
            if abs(growth) > TOLERANCE:
                found.append(f"the memory of router {index} changed by {growth:+.1%}; the bound is {TOLERANCE:.0%}")
        return found

    def text(self) -> str:
        changes = ", ".join(f"{growth:+.1%}" for growth in self.growth())
        sizes = ", ".join(f"{size / MIB:.1f}" for size in self.memory[-1][1])
        return (
            f"{self.memory[-1][0]:.0f} s, {len(self.kills)} kills, {self.complete} complete answers, "
            f"{len(self.errors)} errors, {len(self.lost)} lost; memory of the routers {sizes} MiB, "
            f"changed by {changes} since it settled"
        )

    def picture(self) -> str:
        memory = [
            Series(f"router {i}", [(at, sizes[i] / MIB) for at, sizes in self.memory])
            for i in range(len(self.memory[0][1]))
        ]
        ended = [Series("ended", [(at, float(count)) for at, count in self.answered])]
        return svg(
            [
                Panel("memory of the routers", "seconds", "MiB", memory, linear=True),
                Panel(f"requests; {len(self.lost)} lost", "seconds", "requests", ended, linear=True),
            ]
        )


def mean(values: Sequence[int]) -> float:
    return sum(values) / len(values)


async def run(folder: Path, seconds: float, every: float = KILLS) -> Soak:
    """Run the soak. Raises AssertionError if the fleet does not start or does not mend."""
    async with fleet(folder, PLAN) as running:
        soak, load = Soak(), Load(lambda: running.ports, "the soak", clients=CLIENTS, tokens=24)
        start = time.monotonic()
        async with load.running(ramp=2):
            killing = asyncio.create_task(_kill(running, soak, start, every))
            processes = [psutil.Process(router.pid) for router in running.routers]
            while (now := time.monotonic() - start) < seconds:
                soak.memory.append((now, tuple(process.memory_info().rss for process in processes)))
                _collect(load, soak)
                soak.answered.append((now, soak.complete + len(soak.errors) + len(soak.lost)))
                assert not killing.done(), killing.result()
                await asyncio.sleep(1 - (time.monotonic() - start) % 1)  # the interval of the samples
            killing.cancel()
        _collect(load, soak)
        return soak


def _collect(load: Load, soak: Soak) -> None:
    """Move the outcomes into the counts, so that the memory of this process stays flat too."""
    for outcome in load.outcomes:
        if outcome.verdict.result is Result.COMPLETE:
            soak.complete += 1
        else:
            (soak.lost if outcome.lost else soak.errors).append(str(outcome))
    load.outcomes.clear()


async def _kill(running: Fleet, soak: Soak, start: float, every: float) -> None:
    """Kill one worker after the other. The next kill waits until the fleet is whole."""
    number = 0
    while True:
        await asyncio.sleep(every)
        await wait_until(running.whole, 60, "the fleet is whole before the next kill")
        running.workers[number % len(running.workers)].kill_vllm()
        soak.kills.append(time.monotonic() - start)
        number += 1
