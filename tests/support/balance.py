"""Pools of workers without sockets, and a clock set by hand."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from vllama_pool.router.balance.demand import Demand
from vllama_pool.router.balance.group import Group
from vllama_pool.router.balance.policies.policy import Policy
from vllama_pool.router.balance.pool import Discovered, Pool
from vllama_pool.router.balance.worker import Replica, Worker
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerRecord, WorkerState


class Clock:
    """Monotonic seconds, moved by hand."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def found(
    worker_id: str,
    *models: str | ModelInfo,
    slots: int = 8,
    generation: int = 1,
    speed: float = 1.0,
    load: LoadReport | None = None,
    tags: tuple[str, ...] = (),
) -> Discovered:
    """A discovered worker of `models`, by default "m"."""
    infos = tuple(ModelInfo(name=model) if isinstance(model, str) else model for model in models or ("m",))
    url = f"http://{worker_id}:8100"
    record = WorkerRecord(
        id=worker_id, generation=generation, url=url, models=infos, slots=slots, speed=speed, tags=tags
    )
    return Discovered(record, Endpoint(worker_id, 8100), load)


def tagged(worker_id: str, *tags: str, model: ModelInfo | None = None) -> Discovered:
    """A discovered worker with these tags."""
    return found(worker_id, model or "m", tags=tags)


def pool_of(clock: Clock, *workers: Discovered, settled: bool = True, slots: int | None = None) -> Pool:
    """A pool of these workers; `settled`: past their slow start. `slots`: of each."""
    pool = Pool(clock)
    for worker in workers:
        record = worker.record if slots is None else msgspec.structs.replace(worker.record, slots=slots)
        pool.put(Discovered(record, worker.endpoint, worker.load))
    if settled:
        clock.advance(60)
    return pool


def worker_in(pool: Pool, worker_id: str) -> Worker:
    worker = pool.get(worker_id)
    assert worker is not None
    return worker


def group(pool: Pool, name: str = "m") -> tuple[Group, ...]:
    """A model's replicas as the groups of `choose`."""
    found = pool.group_for(name)
    return (found,) if found is not None else ()


def ids(targets: Iterable[Replica]) -> list[str]:
    return sorted(target.worker.id for target in targets)


class Counting(tuple[Worker, ...]):
    """Counts the workers that are looked at."""

    looks: int

    def __getitem__(self, index: Any) -> Any:
        self.looks += 1
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[Worker]:
        self.looks += len(self)
        return super().__iter__()


class FirstCandidate(Policy):
    """Picks the first candidate."""

    def pick(self, candidates: Sequence[Worker], now: float, rng: random.Random, demand: Demand) -> Worker:
        return candidates[0]


READY = LoadReport()
DRAINING = LoadReport(state=WorkerState.DRAINING)
RESTARTING = LoadReport(state=WorkerState.RESTARTING, note="CUDA out of memory")
