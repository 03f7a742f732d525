"""Chooses the worker for the next request: a model's groups hold the candidates, then a policy picks one."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from vllama_pool.router.balance.demand import PLAIN, Demand
from vllama_pool.router.balance.group import Group
from vllama_pool.router.balance.policies.least_load import LeastLoad, least_load
from vllama_pool.router.balance.policies.policy import Policy
from vllama_pool.router.balance.policies.prefix_affinity import PrefixAffinity
from vllama_pool.router.balance.policies.round_robin import RoundRobin
from vllama_pool.router.balance.policies.session import Session
from vllama_pool.router.balance.worker import Replica, Worker

POLICIES: Mapping[str, Callable[[], Policy]] = MappingProxyType(
    {
        LeastLoad.name: lambda: least_load,
        RoundRobin.name: RoundRobin,
        PrefixAffinity.name: PrefixAffinity,
        Session.name: Session,
    }
)
"""Factories by the policy's name in the routing file. Some take parameters."""

Tier = Callable[[Group, float], Sequence[Worker]]

TIERS: tuple[Tier, ...] = (Group.candidates, Group.up, Group.down)
"""Best first."""


@dataclass(frozen=True, slots=True)
class Untried:
    """Number of workers that were not tried."""

    healthy: int
    last_resort: int
    """Unhealthy or down ones, tried only if no healthy one is left."""


@dataclass(frozen=True, slots=True)
class Found:
    """The workers among which the policy picks."""

    group: Group
    """With their replicas."""
    workers: Sequence[Worker]
    target: int = 0
    """Index of the group that `group` is, or is a part of."""
    healthy: bool = True
    """False for last resorts: workers that are suspect, failing or down."""


def choose(
    groups: Sequence[Group],
    tried: Collection[str],
    now: float,
    rng: random.Random,
    policy: Policy,
    demand: Demand = PLAIN,
) -> Replica | None:
    """Return the replica for the next attempt; None if every worker was `tried` (worker ids).

    Each group holds the replicas of one model, in order of preference. A healthy worker of a later group is preferred
    to an unhealthy one of an earlier group.
    """
    if not (tried or demand.at_least):  # nearly every request
        for group in groups:
            workers = group.candidates(now)
            if group.graded:
                break
            if workers:
                alone = policy is least_load and len(workers) == 1  # it has no memory of its choices
                return group.replica(workers[0] if alone else policy.choose(workers, now, rng, demand))
    found = find(groups, tried, now, demand)
    return found.group.replica(policy.choose(found.workers, now, rng, demand)) if found is not None else None


def peek(
    groups: Sequence[Group],
    tried: Collection[str],
    now: float,
    rng: random.Random,
    policy: Policy,
    demand: Demand = PLAIN,
) -> Replica | None:
    """Return what `choose` would return, without effect on the policy's state."""
    found = find(groups, tried, now, demand)
    return found.group.replica(policy.pick(found.workers, now, rng, demand)) if found is not None else None


def find(groups: Sequence[Group], tried: Collection[str], now: float, demand: Demand) -> Found | None:
    """Return the workers among which the policy picks; None if there are none."""
    at_least = needed_window(groups, demand)
    for tier in TIERS:
        for target, group in enumerate(groups):
            part, workers = _find_in(group, tier, tried, now, at_least, demand.at_most)
            if workers:
                return Found(part, workers, target, tier is TIERS[0])
    return None


def needed_window(groups: Sequence[Group], demand: Demand) -> int:
    """Return the least context window that a replica needs.

    A prompt that is certainly too long for all replicas goes to the largest: a worker refuses it, or it is shortened.
    """
    if not demand.at_least or fits_somewhere(groups, demand):
        return demand.at_least
    return max((window for group in groups if group.serving for window in group.windows), default=0)


def fits_somewhere(groups: Sequence[Group], demand: Demand) -> bool:
    """True unless the prompt is certainly too long for all replicas that serve."""
    return any(step.serving for group in groups for step in group.steps(demand.at_least, 0)[-1:])


def _find_in(
    group: Group, tier: Tier, tried: Collection[str], now: float, at_least: int, at_most: int
) -> tuple[Group, Sequence[Worker]]:
    """Return the best part of the group that has a free worker, with its workers; else all of its workers."""
    if not (group.graded or at_least):
        return group, _untried(tier(group, now), tried)
    steps = group.steps(at_least, at_most)
    for index, step in enumerate(steps):
        workers = _untried(tier(step, now), tried)
        free = [worker for worker in workers if not worker.full]
        if free:
            return step, workers if index == 0 else free
    return (steps[-1], _untried(tier(steps[-1], now), tried)) if steps else (group, ())


def _untried(workers: Sequence[Worker], tried: Collection[str]) -> Sequence[Worker]:
    return [worker for worker in workers if worker.id not in tried] if tried else workers


def count_untried(groups: Sequence[Group], tried: Collection[str], now: float, demand: Demand = PLAIN) -> Untried:
    healthy: set[Worker] = set()
    others: set[Worker] = set()
    at_least = needed_window(groups, demand)
    for group in groups:
        for step in group.steps(at_least, 0)[-1:] if at_least else (group,):
            healthy.update(step.candidates(now))
            others.update(step.up(now), step.down(now))
    others -= healthy
    return Untried(_count(healthy, tried), _count(others, tried))


def _count(workers: Collection[Worker], tried: Collection[str]) -> int:
    return sum(worker.id not in tried for worker in workers)
