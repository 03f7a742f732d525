"""Measure the router beside its peers, interleaved, and print medians, spreads and ratios.

    make bench ARGS="--runs 5 --scenarios S,D1 --against ../other-checkout"

The router runs on core 0, everything else on core 1. Peers (vllm-router, sglang-router, nginx) are found on PATH, or by
--peers or BENCH_PEERS with names or paths, separated by commas. Samples are kept in .bench/results.jsonl.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.bench.apis import APIS
from tests.bench.contenders import KINDS, PEERS, Contender, peers, vllama
from tests.bench.processes import RIG_CORE
from tests.bench.programs import WORK, CannotMeasure, build
from tests.bench.report import dropped, short, table
from tests.bench.rig import Rig, rig
from tests.bench.running import measure, running, warm_up
from tests.bench.samples import Sample
from tests.bench.scenarios import SCENARIOS, Scenario

EXTRA_ROUNDS = 2
"""Times the wanted runs that may be tried while runs are dropped."""


def options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("make bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scenarios", default="D1,D,E,B,S,C", help="names, separated by commas (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="of each contender (default: %(default)s)")
    parser.add_argument("--api", choices=APIS, default="/api/chat", help="vLLama's path (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="router processes of vLLama (default: 1)")
    parser.add_argument("--peers", default=os.environ.get(PEERS), help="none with an empty value")
    parser.add_argument("--against", type=Path, action="append", default=[], help="another checkout; repeatable")
    parser.add_argument(
        "--most-other", type=float, default=0.3, help="cores of other programs above which a run is dropped"
    )
    parser.add_argument("--results", type=Path, default=WORK / "results.jsonl")
    parser.add_argument(
        "--continue", dest="resume", action="store_true", help="add to the results instead of replacing"
    )
    parser.add_argument("--table", action="store_true", help="only print the table of the results")
    return parser.parse_args(arguments)


def contenders(choice: argparse.Namespace) -> list[Contender]:
    api = APIS[choice.api]
    found = [vllama(api=api, processes=choice.processes)]
    for root in map(Path.resolve, choice.against):
        if not (root / "vllama_pool").is_dir():
            raise CannotMeasure(f"{root} is not a checkout of vLLama; choose a folder with vllama_pool")
        found.append(vllama(root, name=f"vllama@{root.name}", api=api, processes=choice.processes))
    return [*found, *peers(choice.peers)]


def wanted_scenarios(names: str) -> list[Scenario]:
    """Return the named scenarios in their order, but one that reads memory before those with more connections.

    A process does not give memory back, so that later streams seem to need none.
    """
    unknown = [name for name in names.split(",") if name not in SCENARIOS]
    if unknown:
        raise CannotMeasure(f"{', '.join(unknown)}: no such scenario; choose among {', '.join(SCENARIOS)}")
    found = [SCENARIOS[name] for name in names.split(",")]
    fewest = min((each.connections for each in found if each.open_after), default=0)
    return sorted(found, key=lambda each: fewest > 0 and each.connections > fewest)


def missing(samples: Sequence[Sample], contender: str, scenarios: Sequence[Scenario], runs: int) -> list[Scenario]:
    """Return the scenarios that have fewer runs than wanted."""
    counted = [each.scenario for each in samples if each.contender == contender]
    return [scenario for scenario in scenarios if counted.count(scenario.name) < runs]


def read_samples(path: Path) -> list[Sample]:
    return [msgspec.json.decode(line, type=Sample) for line in path.read_bytes().splitlines()] if path.exists() else []


def run_rounds(choice: argparse.Namespace, measured: Sequence[Contender], bench: Rig) -> None:
    scenarios, had = wanted_scenarios(choice.scenarios), read_samples(choice.results)
    fresh: list[Sample] = []
    for round_ in range(choice.runs * EXTRA_ROUNDS):
        for contender in measured if round_ % 2 == 0 else reversed(measured):
            counted = [each for each in fresh if each.counts(choice.most_other)]
            todo = missing(counted, contender.name, scenarios, min(choice.runs, round_ + 1))
            if todo:
                fresh += run_once(contender, bench, todo)
                choice.results.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in (*had, *fresh)))


def run_once(contender: Contender, bench: Rig, scenarios: Sequence[Scenario]) -> list[Sample]:
    with running(contender, bench) as router:
        warm_up(router, bench)
        samples = []
        for scenario in scenarios:
            samples.append(measure(router, bench, scenario))
            say(line(samples[-1]))
        return samples


def line(sample: Sample) -> str:
    figures = " ".join(f"{name}={short(value)}" for name, value in sample.figures.items())
    return f"{sample.contender} {sample.scenario}: {figures} other={sample.other:.2f} {sample.problem}".rstrip()


def print_table(samples: Sequence[Sample], most_other: float) -> None:
    names = list(dict.fromkeys(each.contender for each in samples))
    reference = next(filter(names.__contains__, KINDS), None)
    reference = reference or next((name for name in names if name.startswith("vllama@")), None)
    counted = [each for each in samples if each.counts(most_other)]
    say("", *dropped(samples, most_other), "", table(counted, names, reference))


def say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    choice = options(arguments)
    try:
        if not choice.table:
            if (os.cpu_count() or 1) <= RIG_CORE:
                raise CannotMeasure("the machine has one core; the router and its load need one each")
            measured, programs = contenders(choice), build()
            if not choice.resume:
                choice.results.unlink(missing_ok=True)
            with rig(programs, WORK / "run") as bench:
                run_rounds(choice, measured, bench)
    except CannotMeasure as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    print_table(read_samples(choice.results), choice.most_other)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
