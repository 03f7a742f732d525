"""A long run at 70 % load with a worker killed every 30 s: memory of the routers, and requests lost, as a picture.

python -m tests.chaos --soak 20m --picture docs/chaos-soak.svg
"""

from __future__ import annotations

import asyncio
import itertools
import sys
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
MENDED = 60.0
"""Seconds until the fleet is whole again, on a busy machine."""
PERIOD = 10
"""Samples between two points of the curve of answers."""
PROGRESS = 60
"""Samples between two lines of progress."""
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
    """The samples of a run. Times are seconds since its start."""

    names: Sequence[str] = ()
    """Of the routers."""
    memory: list[tuple[float, tuple[int, ...]]] = field(default_factory=list)
    """Bytes of each of them, every second."""
    answered: list[tuple[float, int]] = field(default_factory=list)
    """Requests that have ended."""
    lost: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)
    complete: int = 0
    stopped: str = ""
    """Why the run ended early."""

    def growth(self) -> list[float]:
        """Return the relative change of the memory of each process from the end of the first part to the end."""
        seconds = self.memory[-1][0]
        settled = min(SETTLED, seconds / 4)
        late = [sizes for at, sizes in self.memory if at >= settled]
        part = max(1, len(late) // 10)
        first, last = late[:part], late[-part:]
        return [mean([one[i] for one in last]) / mean([one[i] for one in first]) - 1 for i in range(len(late[0]))]

    def problems(self) -> list[str]:
        found = [f"{len(self.lost)} requests lost: {self.lost[0]}"] if self.lost else []
        found += [f"{len(self.errors)} errors: {self.errors[0]}"] if self.errors else []
        for name, growth in zip(self.names, self.growth(), strict=True):
            if abs(growth) > TOLERANCE:
                found.append(f"the memory of {name} changed by {growth:+.1%}; the bound is {TOLERANCE:.0%}")
        return [*found, self.stopped] if self.stopped else found

    def text(self) -> str:
        sizes = ", ".join(
            f"{name} {size / MIB:.1f} MiB ({growth:+.1%} since it settled)"
            for name, size, growth in zip(self.names, self.memory[-1][1], self.growth(), strict=True)
        )
        return (
            f"{self.memory[-1][0]:.0f} s, {len(self.kills)} kills, {self.complete} complete answers, "
            f"{len(self.errors)} errors, {len(self.lost)} lost; memory: {sizes}"
        )

    def picture(self) -> str:
        memory = [
            Series(name, [(at, sizes[index] / MIB) for at, sizes in self.memory])
            for index, name in enumerate(self.names)
        ]
        title = f"answers per second; {len(self.kills)} kills, {len(self.lost)} lost"
        return svg(
            [
                Panel("memory of the routers", "seconds", "MiB", memory, linear=True),
                Panel(title, "seconds", "requests/s", [Series("ended", self.rates())], linear=True),
            ]
        )

    def rates(self) -> list[tuple[float, float]]:
        """Return the requests that ended per second, in periods of PERIOD samples."""
        some = self.answered[::PERIOD]
        return [
            (later, (after - before) / (later - earlier))
            for (earlier, before), (later, after) in itertools.pairwise(some)
        ]


def mean(values: Sequence[int]) -> float:
    return sum(values) / len(values)


async def run(folder: Path, seconds: float, every: float = KILLS) -> Soak:
    """Run the soak. Raises AssertionError if the fleet does not start."""
    async with fleet(folder, PLAN) as running:
        soak, load = Soak(), Load(lambda: running.ports, "the soak", clients=CLIENTS, tokens=24)
        soak.names = [router.name for router in running.routers]
        processes = [psutil.Process(router.pid) for router in running.routers]
        start = time.monotonic()
        async with load.running(ramp=2):
            killing = asyncio.create_task(_kill(running, soak, start, every))
            for second in itertools.count(1):
                now = time.monotonic() - start
                if now >= seconds or killing.done():
                    break
                soak.memory.append((now, tuple(process.memory_info().rss for process in processes)))
                _collect(load, soak)
                soak.answered.append((now, soak.complete + len(soak.errors) + len(soak.lost)))
                if len(soak.memory) % PROGRESS == 0:
                    sys.stderr.write(f"{soak.text()}\n")
                # A fixed time for each sample: the loop may wake up early by less than a millisecond.
                await asyncio.sleep(start + second - time.monotonic())
            killing.cancel()
            (ended,) = await asyncio.gather(killing, return_exceptions=True)
            soak.stopped = "" if isinstance(ended, asyncio.CancelledError) else f"the kills ended: {ended!r}"
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
    """Kill one worker after the other with its agent, and start both again: an agent alone would pause before it
    starts a vLLM that dies so often."""
    for number in itertools.count():
        await asyncio.sleep(start + every * (number + 1) - time.monotonic())
        await wait_until(running.whole, MENDED, "the fleet is whole before the next kill")
        victim = running.workers[number % len(running.workers)]
        victim.kill_host()
        soak.kills.append(time.monotonic() - start)
        victim.start()
