"""Chooses the worker for the next request: `choose` filters a model's replicas, then a policy picks a candidate."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from vllama_pool.router.balance.worker import Replica, Worker

Policy = Callable[[Sequence[Worker], float, random.Random], Worker]
"""`(candidates, now, rng) -> worker`. There is at least one candidate."""

SAMPLE_SIZE = 4
"""Candidates that least-load compares. With more, routers that share a stale report would all pick the same worker;
with fewer, idle workers are missed."""

PANIC_THRESHOLD = 0.5
"""Below this share of healthy workers, breakers are ignored: the workers are hardly the cause, and the remaining ones
would be overloaded."""

TIE_FACTOR = 1.02
"""Scores within this factor of the best count as equal."""

MAX_REMEMBERED_TURNS = 4096


def least_load(candidates: Sequence[Worker], now: float, rng: random.Random) -> Worker:
    """Pick the lowest score of four random candidates; workers without a free slot rank last.

    Ties are drawn at random: a strict comparison in a fixed order would always pick the same worker.
    """
    sample = candidates if len(candidates) <= SAMPLE_SIZE else rng.sample(candidates, SAMPLE_SIZE)
    ranked = [(worker.full, worker.score(now)) for worker in sample]
    full, score = min(ranked)
    bound = (full, score * TIE_FACTOR)
    equals = [worker for worker, rank in zip(sample, ranked, strict=True) if rank <= bound]
    return equals[0] if len(equals) == 1 else rng.choice(equals)


class RoundRobin:
    """Picks the least recently chosen worker, whatever its load."""

    def __init__(self) -> None:
        self._turn = 0
        self._last_turn: dict[str, int] = {}

    def __call__(self, candidates: Sequence[Worker], now: float, rng: random.Random) -> Worker:
        chosen = min(candidates, key=lambda worker: self._last_turn.get(worker.id, -1))
        self._turn += 1
        self._last_turn.pop(chosen.id, None)
        self._last_turn[chosen.id] = self._turn
        if len(self._last_turn) > MAX_REMEMBERED_TURNS:
            del self._last_turn[next(iter(self._last_turn))]
        return chosen


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
    groups: Sequence[Sequence[Replica]], tried: Collection[str], now: float, rng: random.Random, policy: Policy
) -> Replica | None:
    """Return the replica for the next attempt; None if every worker was `tried` (worker ids).

    Each group holds the replicas of one model, in order of preference. A healthy worker of a later group is preferred
    to an unhealthy one of an earlier group.
    """
    for tier in (_healthy, _unhealthy, _down):
        for group in groups:
            candidates = _untried(tier(group, now), tried)
            if candidates:
                chosen = policy([replica.worker for replica in candidates], now, rng)
                return next(replica for replica in candidates if replica.worker is chosen)
    return None


def count_untried(groups: Sequence[Sequence[Replica]], tried: Collection[str], now: float) -> Untried:
    healthy: set[str] = set()
    others: set[str] = set()
    for group in groups:
        healthy.update(replica.worker.id for replica in _untried(_healthy(group, now), tried))
        for tier in (_unhealthy, _down):
            others.update(replica.worker.id for replica in _untried(tier(group, now), tried))
    return Untried(healthy=len(healthy), last_resort=len(others - healthy))


def rejections(groups: Sequence[Sequence[Replica]], tried: Collection[str], now: float) -> dict[str, str]:
    """Return the reason or the score by worker id. For logs."""
    return {replica.worker.id: _rejection(replica, tried, now) for group in groups for replica in group}


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


def _untried(replicas: Iterable[Replica], tried: Collection[str]) -> list[Replica]:
    return [replica for replica in replicas if replica.worker.id not in tried] if tried else list(replicas)


def _healthy(group: Sequence[Replica], now: float) -> list[Replica]:
    """Serving, up and healthy workers that offer the model; in a panic, all that are not suspect."""
    serving = [replica for replica in group if replica.worker.serving and not replica.worker.down]
    healthy = [replica for replica in serving if replica.worker.health.is_healthy(now)]
    if len(healthy) < PANIC_THRESHOLD * len(serving):
        healthy = [replica for replica in serving if not replica.worker.is_suspect(now)]
    return [replica for replica in healthy if replica.worker.offers(replica.model.name, now)]


def _unhealthy(group: Sequence[Replica], now: float) -> list[Replica]:
    return [replica for replica in group if replica.worker.serving and not replica.worker.down]


def _down(group: Sequence[Replica], now: float) -> list[Replica]:
    """Serving workers that are down: the cause may be the registry rather than the worker."""
    return [replica for replica in group if replica.worker.serving and replica.worker.down]
