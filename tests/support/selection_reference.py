"""Selection in plain words: every question looks at every replica. The pool's groups must agree with it."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

from vllama_pool.config.routing.model_entry import Selector
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


def choose_among(
    replicas: Replicas,
    selector: Selector,
    demand: Demand,
    tried: Collection[str],
    now: float,
    rng: random.Random,
    policy: Policy,
) -> Replica | None:
    """As `choose`, for one group with a selector."""
    selected = [replica for replica in replicas if selects(selector, replica)]
    steps = divided(selected, selector, demand, needed(selected, demand))
    for tier in (healthy, unhealthy, down):
        for index, step in enumerate(steps):
            untried = [replica for replica in tier(step, now) if replica.worker.id not in tried]
            free = [replica for replica in untried if not replica.worker.full]
            if index == len(steps) - 1 and not free:
                free = untried
            if free:
                candidates = untried if index == 0 else free
                chosen = policy.choose([replica.worker for replica in candidates], now, rng, PLAIN)
                return next(replica for replica in candidates if replica.worker is chosen)
    return None


def selects(selector: Selector, replica: Replica) -> bool:
    tags = set(replica.worker.record.tags)
    return (
        set(selector.require) <= tags
        and (not selector.any or bool(tags & set(selector.any)))
        and not tags & set(selector.exclude)
    )


def needed(replicas: Replicas, demand: Demand) -> int:
    """The least window: no more than the largest one that serves."""
    serving = [replica.model.context_length for replica in replicas if replica.worker.is_open]
    if any(not window or window >= demand.at_least for window in serving):
        return demand.at_least
    return max((replica.model.context_length for replica in replicas), default=0) if serving else 0


def divided(replicas: Replicas, selector: Selector, demand: Demand, at_least: int) -> list[Replicas]:
    """All replicas with a window of `at_least`, after the better ones among them."""
    large = [replica for replica in replicas if not 0 < replica.model.context_length < at_least]
    known = sorted({replica.model.context_length for replica in replicas} - {0})
    steps: list[Replicas] = []
    if known and known[0] < demand.at_most and _rounded(known, demand.at_most) > _rounded(known, at_least):
        fitting = [replica for replica in replicas if replica.model.context_length >= demand.at_most]
        steps += [_preferred(fitting, selector), fitting]
    steps.append(_preferred(large, selector))
    kept: list[Replicas] = []
    for step in steps:
        if not {replica.worker for replica in step} <= {replica.worker for other in kept for replica in other}:
            kept.append(step)
    return kept if kept and len(kept[-1]) == len(large) else [*kept, large]


def _rounded(windows: list[int], tokens: int) -> int:
    """The smallest window for the tokens; 0 if each will do."""
    return next((window for window in windows if window >= tokens), windows[-1] + 1) if windows[0] < tokens else 0


def _preferred(replicas: Replicas, selector: Selector) -> Replicas:
    return [replica for replica in replicas if set(selector.prefer) & set(replica.worker.record.tags)]


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
