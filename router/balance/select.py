"""Which worker gets the next request.

First `choose` narrows a model's workers to those that may be asked at all, then a policy picks one of them. A
policy is a function of the candidates, the time and a source of chance; one with a memory is a small class.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from vllama_pool.router.balance.worker import Replica, Worker

Policy = Callable[[Sequence[Worker], float, random.Random], Worker]
"""`(candidates, now, rng) -> worker`. There is at least one candidate."""

SAMPLE = 4
"""Candidates that least-load compares. More of them herd: routers that see the same stale report would all pick
the same worker. Fewer miss the idle ones."""

PANIC = 0.5
"""If fewer of a model's workers are healthy, breakers are ignored: the cause is then hardly the workers, and the
rest would drown."""


NEARLY_EQUAL = 1.02
"""Scores within this factor of the best are drawn among."""


def least_load(candidates: Sequence[Worker], now: float, rng: random.Random) -> Worker:
    """Of four at random the one with the least work for its speed; those without a free slot rank last.

    Those that are nearly equal are drawn by lot. A strict "less than" over a fixed order would never reach the
    later of them, and among workers that start slowly it would always be the one that came a moment earlier.
    """
    sample = candidates if len(candidates) <= SAMPLE else rng.sample(candidates, SAMPLE)
    ranked = [(worker.full, worker.score(now)) for worker in sample]
    full, score = min(ranked)
    bound = (full, score * NEARLY_EQUAL)
    equals = [worker for worker, rank in zip(sample, ranked, strict=True) if rank <= bound]
    return equals[0] if len(equals) == 1 else rng.choice(equals)


class RoundRobin:
    """The worker whose last turn is longest ago, whatever its load; for comparison."""

    def __init__(self) -> None:
        self._turn = 0
        self._last: dict[str, int] = {}

    def __call__(self, candidates: Sequence[Worker], now: float, rng: random.Random) -> Worker:
        chosen = min(candidates, key=lambda worker: self._last.get(worker.id, -1))
        self._turn += 1
        self._last.pop(chosen.id, None)
        self._last[chosen.id] = self._turn
        if len(self._last) > 4096:
            del self._last[next(iter(self._last))]
        return chosen


POLICIES: Mapping[str, Callable[[], Policy]] = MappingProxyType(
    {"least-load": lambda: least_load, "round-robin": RoundRobin}
)
"""By the name that the routing file uses; each call makes a policy with a memory of its own, if it has one."""


@dataclass(frozen=True, slots=True)
class Untried:
    """Who is left to ask."""

    healthy: int
    """Untried workers that may be chosen in the ordinary way."""
    last_resort: int
    """Further untried ones that would be tried only because nobody else is left."""


def choose(
    groups: Sequence[Sequence[Replica]], tried: Collection[str], now: float, rng: random.Random, policy: Policy
) -> Replica | None:
    """The replica to ask next; None if there is none that was not `tried` (worker ids).

    Groups come in order of preference, each with the replicas of one model. Healthy workers of a later group are
    preferred to doubtful ones of an earlier one.
    """
    for tier in (_healthy, _unhealthy, _down):
        for group in groups:
            candidates = _untried(tier(group, now), tried)
            if candidates:
                chosen = policy([replica.worker for replica in candidates], now, rng)
                return next(replica for replica in candidates if replica.worker is chosen)
    return None


def count_untried(groups: Sequence[Sequence[Replica]], tried: Collection[str], now: float) -> Untried:
    """How many could still be asked."""
    healthy: set[str] = set()
    others: set[str] = set()
    for group in groups:
        healthy.update(replica.worker.id for replica in _untried(_healthy(group, now), tried))
        for tier in (_unhealthy, _down):
            others.update(replica.worker.id for replica in _untried(tier(group, now), tried))
    return Untried(healthy=len(healthy), last_resort=len(others - healthy))


def rejections(groups: Sequence[Sequence[Replica]], tried: Collection[str], now: float) -> dict[str, str]:
    """By worker id, the reason why a worker is not eligible, or its load and score where it is. For logs."""
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
    if not worker.has(replica.model.name, now):
        return f"denied having {replica.model.name}"
    return f"{'full, ' if worker.full else ''}score {worker.score(now):.2f}"


def _untried(replicas: Iterable[Replica], tried: Collection[str]) -> list[Replica]:
    return [replica for replica in replicas if replica.worker.id not in tried] if tried else list(replicas)


def _healthy(group: Sequence[Replica], now: float) -> list[Replica]:
    """Those in good health that have the model; all that can be reached, in a panic."""
    serving = [replica for replica in group if replica.worker.serving and not replica.worker.down]
    healthy = [replica for replica in serving if replica.worker.health.healthy(now)]
    if len(healthy) < PANIC * len(serving):
        healthy = [replica for replica in serving if not replica.worker.is_suspect(now)]
    return [replica for replica in healthy if replica.worker.has(replica.model.name, now)]


def _unhealthy(group: Sequence[Replica], now: float) -> list[Replica]:
    """Also those that are suspected, whose breaker is open, or who said that they have no such model."""
    return [replica for replica in group if replica.worker.serving and not replica.worker.down]


def _down(group: Sequence[Replica], now: float) -> list[Replica]:
    """Those whose beats have stopped: perhaps only the registry lost sight of them."""
    return [replica for replica in group if replica.worker.serving and replica.worker.down]
