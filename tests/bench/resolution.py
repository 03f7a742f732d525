"""Prints what the resolution of a name costs, by the size of the routing table, and what a table costs to compile.

`python -m tests.bench.resolution`. "cached" asks for one name again and again; the others ask for names that were not
asked for before: of an entry in a new spelling, under a pattern, and unknown. Times are minima of CPU time.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.support.tables import routing_table
from vllama_pool.router.balance.pool import Discovered, Pool
from vllama_pool.router.routing.resolution import UnknownModel
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.routing.rules import Rules
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerRecord

SIZES = ((0, 0), (1, 0), (100, 10), (5000, 0), (5000, 500))
"""Entries and patterns."""
ROUNDS, NAMES = 7, 2000


def models(entries: int, patterns: int) -> dict[str, Any]:
    exact = {
        f"model-{number}:{number % 9}b": {"serve": "m", "aliases": [f"alias-{number}"]} for number in range(entries)
    }
    return {**exact, **{f"team-{number}-*": {"serve": ["m", "n"], "split": "user"} for number in range(patterns)}}


def pool() -> Pool:
    served = Pool(time.monotonic)
    record = WorkerRecord(
        id="w", generation=1, url="http://w:8100", models=(ModelInfo(name="m"), ModelInfo(name="n")), slots=8
    )
    served.put(Discovered(record, Endpoint("w", 8100), LoadReport()))
    return served


def best(action: Callable[[str], object], names: Callable[[], list[str]]) -> float:
    """Return the least microseconds of one call."""
    costs = []
    for _ in range(ROUNDS):
        asked = names()
        started = time.thread_time()
        for name in asked:
            action(name)
        costs.append((time.thread_time() - started) / len(asked))
    return min(costs) * 1e6


def measure(entries: int, patterns: int) -> str:
    table = routing_table(models=models(entries, patterns))
    started = time.thread_time()
    routes = ModelRoutes(table, random.Random(1))
    compiled = time.thread_time() - started
    served, fresh = pool(), itertools.count()
    rules = Rules(table)

    def resolve(name: str) -> None:
        try:
            routes.resolve(name, served)
        except UnknownModel:
            return

    def several(make: Callable[[int], str]) -> Callable[[], list[str]]:
        return lambda: [make(number) for number in itertools.islice(fresh, NAMES)]

    def exact(number: int) -> str:  # in ever new spellings
        return spelled(f"alias-{number % entries}" if entries else "m", number)

    cases: Iterator[Callable[[], list[str]]] = iter(
        (
            several(exact),
            several(lambda number: f"team-{number % (patterns or 1)}-{number}"),
            several(lambda number: f"unknown-{number}"),
        )
    )
    known = "alias-0" if entries else "m"
    costs = [best(resolve, lambda: [known] * NAMES)]
    for case in cases:
        costs += [best(rules.find, case), best(resolve, case)]
    return f"{entries:7} {patterns:8} {' '.join(f'{cost:8.2f}' for cost in costs)} {compiled * 1e3:10.1f}"


def spelled(name: str, number: int) -> str:
    """Return one of many spellings."""
    letters = (letter.upper() if number >> place & 1 else letter for place, letter in enumerate(name))
    return "".join(letters) + (":latest" if number & 1 << 20 else "")


def main() -> None:
    write = sys.stdout.write
    write("entries patterns   cached exact: find resolve  pattern: resolve  unknown: resolve    compile\n")
    write("                       us       us       us       us       us       us       us         ms\n")
    for entries, patterns in SIZES:
        write(measure(entries, patterns) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
