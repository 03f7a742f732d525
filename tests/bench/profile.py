"""Show which parts of a router process take its CPU time under a load.

    make bench-profile ARGS="--scenario D1 --against ../other-checkout"

The load and the router's features are those of `make bench`. The router process samples itself every 4 ms of its CPU
time. A C function counts for the package whose Python code calls it; uvloop's own work and its system calls are one
part.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.apis import OLLAMA
from tests.bench.contenders import Contender, vllama
from tests.bench.parts import Profile, by_function, by_part, largest, table
from tests.bench.processes import cpu_seconds, ticks
from tests.bench.programs import SOURCES, WORK, CannotMeasure, build
from tests.bench.rig import ROOT, Rig, finish, rig
from tests.bench.running import running, warm_up, watch_beside
from tests.bench.samples import problem
from tests.bench.scenarios import SCENARIOS, Scenario
from tests.support.until import until

SAMPLER = SOURCES / "sampler"
LOADS = 4
"""Loads of the scenario that make one run."""
WRITE_LIMIT = 10.0
"""Seconds."""


@dataclass(slots=True)
class Runs:
    """The measurements of one contender."""

    parts: Counter[str] = field(default_factory=Counter)
    functions: Counter[str] = field(default_factory=Counter)
    costs: list[float] = field(default_factory=list)
    kernel: list[float] = field(default_factory=list)
    other: list[float] = field(default_factory=list)

    def profile(self, name: str) -> Profile:
        return Profile(name, self.parts, statistics.median(self.costs), statistics.median(self.kernel))


def options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "make bench-profile", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scenario", choices=SCENARIOS, default="D1", help="of make bench (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="of each checkout (default: %(default)s)")
    parser.add_argument("--against", type=Path, help="another checkout, shown as before")
    parser.add_argument("--functions", type=int, default=0, help="list so many functions that take the most time")
    return parser.parse_args(arguments)


def contender(root: Path, name: str, samples: Path) -> Contender:
    """Return vLLama from a checkout, whose router process samples itself."""
    env = {"PYTHONPATH": os.pathsep.join((str(SAMPLER), str(root))), "BENCH_SAMPLES": str(samples)}
    return vllama(root, name=name, api=OLLAMA, env=env)


def run_once(measured: Contender, bench: Rig, scenario: Scenario, samples: Path, runs: Runs) -> None:
    """Add one run. Raises CannotMeasure if a request fails."""
    with running(measured, bench) as router:
        warm_up(router, bench)
        bench.set_answers(scenario.answers)
        (pid,) = router.serving
        samples.unlink(missing_ok=True)
        watch = watch_beside(router, bench)
        cpu, kernel, units = cpu_seconds([pid]), ticks(pid), 0
        _order(pid, signal.SIGUSR1)
        for _ in range(LOADS):
            result = finish(bench.start_load(scenario, router.port, measured.api))
            if reason := problem(scenario, result):
                raise CannotMeasure(f"{measured.name}: {reason}; see the router's log in {bench.folder}")
            units += result.tokens if scenario.stream else result.done
        _order(pid, signal.SIGUSR2)
        runs.costs.append((cpu_seconds([pid]) - cpu) * 1e6 / units)
        runs.kernel.append(ticks(pid).system_share(kernel))
        runs.other.append(watch.other())
        until(samples.exists, WRITE_LIMIT, f"the samples in {samples}")
        taken = json.loads(samples.read_text())
        runs.parts += by_part(taken)
        runs.functions += by_function(taken)


def _order(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        raise CannotMeasure("the router process has no sampler; compare with a newer checkout") from None


def measure(choice: argparse.Namespace) -> dict[str, Runs]:
    """Measure the checkouts in turn. Returns the runs by name."""
    folder = WORK / "profile"
    roots = {"now": ROOT} | ({"before": choice.against.resolve()} if choice.against else {})
    found = {name: Runs() for name in roots}
    with rig(build(), folder) as bench:
        for _ in range(choice.runs):
            for name, root in roots.items():
                samples = folder / f"{name}.json"
                measured = contender(root, name, samples)
                run_once(measured, bench, SCENARIOS[choice.scenario], samples, found[name])
    return found


def main(arguments: Sequence[str]) -> int:
    choice = options(arguments)
    try:
        found = measure(choice)
    except CannotMeasure as error:
        sys.stderr.write(f"bench-profile: {error}\n")
        return 1
    unit = "token" if SCENARIOS[choice.scenario].stream else "request"
    other = max(most for runs in found.values() for most in runs.other)
    count = min(sum(runs.parts.values()) for runs in found.values())
    sys.stdout.write(table([runs.profile(name) for name, runs in found.items()], unit) + "\n")
    sys.stdout.write(f"{count} samples or more; other programs used at most {other:.2f} cores\n")
    if choice.functions:
        lines = largest(found["now"].functions, found["now"].profile("now").cost, choice.functions)
        sys.stdout.write("\n".join((f"largest functions, µs per {unit}:", *lines)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
