"""Selection in plain words: every question looks at every replica. The pool's groups must agree with it."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

from vllama_pool.router.balance.demand import PLAIN, Demand
from vllama_pool.router.balance.policies.policy import Policy
from vllama_pool.router.balance.select import Untried
from vllama_pool.router.balance.worker import Replica, Worker

Replicas = Sequence[Replica]


def healthy(group: Replicas, now: float) -> list[Replica]:
    """Serving, up and healthy workers that offer the model; in a panic, all that are not suspect."""
    serving = unhealthy(group, now)
    candidates = [replica for replica in serving if replica.worker.health.is_healthy(now)]
    if len(candidates) < 0.5 * len(serving):
        candidates = [replica for replica in serving if not replica.worker.is_suspect(now)]
    return [replica for replica in candidates if replica.worker.offers(replica.model.name, now)]


def unhealthy(group: Replicas, now: float) -> list[Replica]:
    return [replica for replica in group if replica.worker.is_open and not replica.worker.down]


def down(group: Replicas, now: float) -> list[Replica]:
    return [replica for replica in group if replica.worker.is_open and replica.worker.down]


def choose(
    groups: Sequence[Replicas], tried: Collection[str], now: float, rng: random.Random, policy: Policy
) -> Replica | None:
    for tier in (healthy, unhealthy, down):
        for group in groups:
            candidates = [replica for replica in tier(group, now) if replica.worker.id not in tried]
            if candidates:
                chosen = policy.choose([replica.worker for replica in candidates], now, rng, PLAIN)
                return next(replica for replica in candidates if replica.worker is chosen)
    return None


def count_untried(groups: Sequence[Replicas], tried: Collection[str], now: float) -> Untried:
    first = {replica.worker.id for group in groups for replica in healthy(group, now)} - set(tried)
    others = {
        replica.worker.id for group in groups for tier in (unhealthy, down) for replica in tier(group, now)
    } - set(tried)
    return Untried(len(first), len(others - first))


class RoundRobin(Policy):
    """Picks the least recently chosen worker; of several that were never chosen, the first."""

    def __init__(self) -> None:
        self._turn = 0
        self._last_turn: dict[str, int] = {}

    def pick(self, candidates: Sequence[Worker], now: float, rng: random.Random, demand: Demand) -> Worker:
        return min(candidates, key=lambda worker: self._last_turn.get(worker.id, -1))

    def record(self, chosen: Worker, candidates: Sequence[Worker], demand: Demand) -> None:
        self._turn += 1
        self._last_turn[chosen.id] = self._turn
