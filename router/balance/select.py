"""Chooses the worker for the next request: a model's groups hold the candidates, then a policy picks one."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from types import MappingProxyType

from vllama_pool.router.balance.group import Group
from vllama_pool.router.balance.worker import Replica, Worker

Policy = Callable[[Sequence[Worker], float, random.Random], Worker]
"""`(candidates, now, rng) -> worker`. There is at least one candidate."""

SAMPLE_SIZE = 4
"""Candidates that least-load compares. With more, routers that share a stale report would all pick the same worker;
with fewer, idle workers are missed."""

TIE_FACTOR = 1.02
"""Scores within this factor of the best count as equal."""

MAX_REMEMBERED_TURNS = 4096
MAX_QUEUES = 8
"""Lists of candidates whose order of turns is kept."""


def least_load(candidates: Sequence[Worker], now: float, rng: random.Random) -> Worker:
    """Pick the lowest score of four random candidates; workers without a free slot rank last.

    Ties are drawn at random: a strict comparison in a fixed order would always pick the same worker.
    """
    if len(candidates) == 1:
        return candidates[0]
    sample = candidates if len(candidates) <= SAMPLE_SIZE else _sample(candidates, rng.random)
    ranks = [worker.rank(now) for worker in sample]
    best = min(ranks)
    bound = best * TIE_FACTOR if best > 0 else best / TIE_FACTOR
    equals = [worker for worker, rank in zip(sample, ranks, strict=True) if rank <= bound]
    return equals[0] if len(equals) == 1 else equals[int(rng.random() * len(equals))]


def _sample(candidates: Sequence[Worker], draw: Callable[[], float]) -> tuple[Worker, ...]:
    """Return SAMPLE_SIZE different ones. `random.sample`, or a loop, takes several times as long."""
    count = len(candidates)
    a, b, c, d = int(draw() * count), int(draw() * count), int(draw() * count), int(draw() * count)
    while b == a:
        b = int(draw() * count)
    while c in (a, b):
        c = int(draw() * count)
    while d in (a, b, c):
        d = int(draw() * count)
    return candidates[a], candidates[b], candidates[c], candidates[d]


class RoundRobin:
    """Picks the least recently chosen worker, whatever its load."""

    def __init__(self) -> None:
        self._turn = 0
        self._last_turn: dict[str, int] = {}
        self._queues: dict[int, tuple[Sequence[Worker], list[tuple[int, int]]]] = {}

    def __call__(self, candidates: Sequence[Worker], now: float, rng: random.Random) -> Worker:
        queue = self._queue(candidates)
        last_turn = self._last_turn
        while True:
            queued, index = queue[0]
            chosen = candidates[index]
            turn = last_turn.get(chosen.id, -1)
            if turn <= queued:
                break
            heapreplace(queue, (turn, index))  # it was chosen from other candidates meanwhile
        self._turn += 1
        heapreplace(queue, (self._turn, index))
        last_turn.pop(chosen.id, None)
        last_turn[chosen.id] = self._turn
        if len(last_turn) > MAX_REMEMBERED_TURNS:
            del last_turn[next(iter(last_turn))]
        return chosen

    def _queue(self, candidates: Sequence[Worker]) -> list[tuple[int, int]]:
        """Return a heap of (latest turn, index); a group's tuple of candidates keeps its heap while it is the same."""
        known = self._queues.get(id(candidates))
        if known is not None:
            return known[1]
        queue = [(self._last_turn.get(worker.id, -1), index) for index, worker in enumerate(candidates)]
        heapify(queue)
        if isinstance(candidates, tuple):
            self._queues[id(candidates)] = candidates, queue  # holds the tuple, so that its id stays its own
            if len(self._queues) > MAX_QUEUES:
                del self._queues[next(iter(self._queues))]
        return queue


POLICIES: Mapping[str, Callable[[], Policy]] = MappingProxyType(
    {"least-load": lambda: least_load, "round-robin": RoundRobin}
)
"""Factories by the policy's name in the routing file."""


@dataclass(frozen=True, slots=True)
class Untried:
    """Number of workers that were not tried."""

    healthy: int
    last_resort: int
    """Unhealthy or down ones, tried only if no healthy one is left."""


def choose(
    groups: Sequence[Group], tried: Collection[str], now: float, rng: random.Random, policy: Policy
) -> Replica | None:
    """Return the replica for the next attempt; None if every worker was `tried` (worker ids).

    Each group holds the replicas of one model, in order of preference. A healthy worker of a later group is preferred
    to an unhealthy one of an earlier group.
    """
    if not tried:  # nearly every request
        for group in groups:
            workers: Sequence[Worker] = group.candidates(now)
            if workers:
                return group.replica(policy(workers, now, rng))
    for tier in (Group.candidates, Group.up, Group.down):
        for group in groups:
            workers = tier(group, now)
            if tried:
                workers = [worker for worker in workers if worker.id not in tried]
            if workers:
                return group.replica(policy(workers, now, rng))
    return None


def count_untried(groups: Sequence[Group], tried: Collection[str], now: float) -> Untried:
    healthy: set[Worker] = set()
    others: set[Worker] = set()
    for group in groups:
        healthy.update(group.candidates(now))
        others.update(group.up(now), group.down(now))
    others -= healthy
    return Untried(_count(healthy, tried), _count(others, tried))


def _count(workers: Collection[Worker], tried: Collection[str]) -> int:
    return sum(worker.id not in tried for worker in workers)


def rejections(groups: Sequence[Group], tried: Collection[str], now: float) -> dict[str, str]:
    """Return the reason or the score by worker id. For logs."""
    return {replica.worker.id: _rejection(replica, tried, now) for group in groups for replica in group.replicas}


def _rejection(replica: Replica, tried: Collection[str], now: float) -> str:
    worker = replica.worker
    if worker.id in tried:
        return "tried already"
    if not worker.serving:
        return str(worker.state)
    if worker.down:
        return "down"
    health = worker.health.describe(now)
    if health != "closed":
        return health if health == "suspect" else f"breaker {health}"
    if not worker.offers(replica.model.name, now):
        return f"answered 404 for {replica.model.name}"
    return f"{'full, ' if worker.full else ''}score {worker.score(now):.2f}"
