"""Conversations over simulated time: hits of the prefix caches, load within the bound, and sessions that move."""

from __future__ import annotations

import math
import random
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.support.balance import Clock, found, group, pool_of
from vllama_pool.router.balance.demand import Demand
from vllama_pool.router.balance.hashing import stable_hash
from vllama_pool.router.balance.lease import Completed, Lease
from vllama_pool.router.balance.policies.least_load import least_load
from vllama_pool.router.balance.policies.policy import Policy
from vllama_pool.router.balance.policies.prefix_affinity import PrefixAffinity
from vllama_pool.router.balance.policies.session import Session
from vllama_pool.router.balance.select import choose

WORKERS = 16
CACHED = 60
"""Conversations that one worker's cache holds."""
BOUND = 1.25


@dataclass
class Conversation:
    key: int
    turns: int = 0

    def demand(self) -> Demand:
        return Demand(
            self.key, tuple(stable_hash(f"{self.key}-{turn}") for turn in range(max(0, self.turns - 3), self.turns + 1))
        )


@dataclass
class Outcome:
    hits: int = 0
    later_turns: int = 0
    beyond: int = 0
    """Choices of a worker that then held more than the bound times the mean, rounded up."""
    requests: Counter[str] = field(default_factory=Counter)

    @property
    def hit_rate(self) -> float:
        return self.hits / self.later_turns


def hold_conversations(policy: Policy, *, slots: int = 64, parallel: int = 160, turns: int = 12_000) -> Outcome:
    """700 conversations on 16 workers: each turn hits if its worker still has the conversation in its cache."""
    clock, rng = Clock(), random.Random(11)
    pool = pool_of(clock, *(found(f"worker-{number}", slots=slots) for number in range(WORKERS)))
    caches: dict[str, OrderedDict[int, int]] = {worker.id: OrderedDict() for worker in pool}
    conversations = [Conversation(stable_hash(str(number))) for number in range(700)]
    running: list[Lease] = []
    outcome = Outcome()
    for number in range(turns):
        conversation = rng.choice(conversations)
        replica = choose(group(pool), (), clock(), rng, policy, conversation.demand())
        assert replica is not None
        lease = pool.lease(replica.worker)
        worker = replica.worker
        outcome.beyond += worker.in_flight > math.ceil(BOUND * pool.in_flight / WORKERS)
        outcome.requests[worker.id] += 1
        cache = caches[worker.id]
        if conversation.turns:
            outcome.later_turns += 1
            outcome.hits += cache.get(conversation.key) == conversation.turns
        conversation.turns += 1
        cache.pop(conversation.key, None)
        cache[conversation.key] = conversation.turns
        if len(cache) > CACHED:
            cache.popitem(last=False)
        running.append(lease)
        if number >= parallel:
            running.pop(rng.randrange(len(running))).release(Completed(1))
    return outcome


def test_affinity_hits_the_cache_far_more_often_within_the_bound(
    record_property: Callable[[str, object], None],
) -> None:
    by_load, by_prefix = hold_conversations(least_load), hold_conversations(PrefixAffinity())
    record_property(
        "figure", f"simulated prefix hits: least-load {by_load.hit_rate:.0%}, prefix-affinity {by_prefix.hit_rate:.0%}"
    )
    assert by_load.hit_rate < 0.15
    assert by_prefix.hit_rate > 0.75
    assert by_prefix.beyond == 0
    assert max(by_prefix.requests.values()) < 1.25 * 12_000 / WORKERS


def test_a_looser_bound_hits_more_often() -> None:
    rates = [hold_conversations(PrefixAffinity(bound)).hit_rate for bound in (1.05, 1.25, 2.0)]
    assert rates == sorted(rates)


@pytest.mark.parametrize("workers", [3, 8, 16])
def test_a_lost_worker_moves_its_share_of_the_sessions(workers: int) -> None:
    clock, rng = Clock(), random.Random(2)
    pool = pool_of(clock, *(found(f"worker-{number}") for number in range(workers)))
    keys = [stable_hash(f"user-{number}") for number in range(5000)]
    policy = Session()

    def owners() -> list[str]:
        replicas = [choose(group(pool), (), clock(), rng, policy, Demand(key)) for key in keys]
        return [replica.worker.id for replica in replicas if replica is not None]

    before = owners()
    pool.remove("worker-0")
    after = owners()
    moved = sum(one != other for one, other in zip(before, after, strict=True))
    assert moved == before.count("worker-0")
    assert moved == pytest.approx(5000 / workers, rel=0.15)
    assert max(Counter(after).values()) < 1.15 * 5000 / (workers - 1)
