"""Prints what resolution, choice and lease of a request cost by number of workers and models, and a join and a leave.

`python -m tests.bench.selection`. Times are minima in one process, so that other load hardly shows.
"""

from __future__ import annotations

import gc
import itertools
import random
import sys
import time
import timeit
from collections.abc import Callable

from tests.support.tables import routing_table
from vllama_pool.config.routing.model_entry import POLICY_NAMES
from vllama_pool.config.routing.table import LEAST_LOAD, RoutingTable
from vllama_pool.router.balance.demand import PLAIN, Demand
from vllama_pool.router.balance.hashing import stable_hash
from vllama_pool.router.balance.lease import Completed
from vllama_pool.router.balance.pool import Discovered, Pool
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerRecord

KEYED = ("prefix-affinity", "session")
SIZES = ((1, 1), (2, 1), (10, 1), (100, 1), (1000, 1), (2, 100), (2, 5000), (1000, 100), (1000, 5000))
"""Workers and models. Of several models, each worker serves a share, and each model at least one worker."""
ROUNDS = 9
REQUESTS = 1000
"""Per round, but each model at least once."""
SETTLED = 60.0
"""Seconds after which the workers have their full share."""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def discovered(worker: int, models: tuple[ModelInfo, ...]) -> Discovered:
    name = f"w{worker}"
    record = WorkerRecord(id=name, generation=1, url=f"http://{name}:8100", models=models, slots=8)
    return Discovered(record, Endpoint(name, 8100), LoadReport())


def fleet(workers: int, models: int) -> list[Discovered]:
    infos = [ModelInfo(name=f"model-{number}", digest="d" * 64) for number in range(models)]
    share = -(-models // workers)
    starts = range(0, workers * share, share)
    return [
        discovered(worker, tuple(infos[(start + offset) % models] for offset in range(share)))
        for worker, start in enumerate(starts)
    ]


def conversations() -> list[Demand]:
    """Return demands of conversations whose prompts are known but for their last turn."""
    hashes = [stable_hash(str(number)) for number in range(512)]
    return [Demand(key, tuple((key + step) % 2**64 for step in range(8))) for key in hashes]


def requests(pool: Pool, clock: Clock, models: int, policy: str) -> Callable[[], None]:
    """Return one request after the other, for the models in turn."""
    table = routing_table(models={f"model-{number}": {"policy": policy} for number in range(models)})
    routes = ModelRoutes(RoutingTable() if policy == LEAST_LOAD else table, random.Random(1))
    rng = random.Random(2)
    names = itertools.cycle([f"model-{number}" for number in range(models)])
    demands = itertools.cycle(conversations() if policy in KEYED else [PLAIN])

    def request() -> None:
        replica = routes.resolve(next(names), pool).choose((), clock.now, rng, next(demands))
        assert replica is not None
        lease = pool.lease(replica.worker, replica.model.name)
        lease.record_first_content()
        lease.release(Completed(1))

    return request


def best(action: Callable[[], object], number: int) -> float:
    """Return the least microseconds of one call over the rounds."""
    return min(timeit.repeat(action, number=number, repeat=ROUNDS)) / number * 1e6


def measure(workers: int, models: int) -> str:
    clock = Clock()
    pool = Pool(clock)
    found = fleet(workers, models)
    gc.collect()
    started = time.perf_counter()
    pool.put(*found)
    snapshot = time.perf_counter() - started
    clock.now += SETTLED
    number = max(REQUESTS, models)
    costs = [best(requests(pool, clock, models, policy), number) for policy in POLICY_NAMES]
    report = best(lambda: pool.report("w0", LoadReport()), 100)
    newcomer = discovered(workers, (ModelInfo(name="model-0", digest="d" * 64),))

    def join_and_leave() -> None:
        pool.put(newcomer)
        pool.remove(newcomer.record.id)

    join = best(join_and_leave, 10)
    return (
        f"{workers:7} {models:6} {costs[0]:11.1f} {costs[1]:11.1f} {costs[3]:8.1f} {costs[2]:15.1f} {report:10.1f} "
        f"{join:10.0f} {snapshot * 1e3:12.1f}"
    )


def main() -> None:
    write = sys.stdout.write
    write("workers models  least-load round-robin  session prefix-affinity     report join+leave     snapshot\n")
    write("                        us          us       us              us         us         us           ms\n")
    for workers, models in SIZES:
        write(measure(workers, models) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
