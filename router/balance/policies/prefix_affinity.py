"""Prefix-affinity: a prompt goes to the worker whose prefix cache is likely to hold its beginning."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

from vllama_pool.router.balance.demand import Demand
from vllama_pool.router.balance.hashing import order_for
from vllama_pool.router.balance.policies.least_load import least_load
from vllama_pool.router.balance.policies.load_bound import DEFAULT_BOUND, LoadBound
from vllama_pool.router.balance.policies.policy import NO_TERMS, Policy, Terms
from vllama_pool.router.balance.worker import Worker

MAX_PREFIXES = 32_768
"""Remembered prefixes of one model. The least recently used are forgotten first."""
MAX_HOLDERS = 4
"""Workers that are remembered for one prefix, the latest first."""


class PrefixAffinity(Policy):
    """Consistent hashing with bounded loads, after a memory of the prefixes that each worker received.

    The longest known prefix decides: of the workers that received it, the least loaded one is picked. A new prompt goes
    to the first worker in the order of its key. Workers that exceed `bound` times the mean load are passed over, and so
    are full and failing ones.
    """

    name = "prefix-affinity"
    reads_prefixes = True

    def __init__(self, bound: float = DEFAULT_BOUND) -> None:
        self.bound = bound
        self.known: dict[int, tuple[Worker, ...]] = {}
        """The workers that received a prefix; the latest prefix is the last."""

    def pick(self, candidates: Sequence[Worker], now: float, rng: random.Random, demand: Demand) -> Worker:
        if not demand.key or len(candidates) == 1:
            return least_load.choose(candidates, now, rng)
        admits = LoadBound(candidates, self.bound, now).admits
        for holders in self._longest_first(demand):
            admitted = [worker for worker in holders if worker in candidates and admits(worker)]
            if admitted:
                return least_load.choose(admitted, now, rng)
        in_order = order_for(demand.key, candidates)
        return next((worker for worker in in_order if admits(worker)), None) or least_load.choose(candidates, now, rng)

    def record(self, chosen: Worker, candidates: Sequence[Worker], demand: Demand) -> None:
        known = self.known
        for prefix in demand.prefixes:
            holders = known.pop(prefix, ())
            if not holders or holders[0] is not chosen:
                others = [worker for worker in holders if worker is not chosen and worker in candidates]
                holders = (chosen, *others[: MAX_HOLDERS - 1])
            known[prefix] = holders
        while len(known) > MAX_PREFIXES:
            del known[next(iter(known))]

    def terms(self, candidates: Sequence[Worker], now: float, demand: Demand) -> Mapping[Worker, Terms]:
        if not demand.key:
            return NO_TERMS
        bound = LoadBound(candidates, self.bound, now)
        known = [worker for holders in self._longest_first(demand) for worker in holders]
        return {
            worker: Terms(place, bound.limit, known.count(worker), bound.admits(worker))
            for place, worker in enumerate(order_for(demand.key, candidates), 1)
        }

    def _longest_first(self, demand: Demand) -> Iterator[tuple[Worker, ...]]:
        known = self.known
        return (known[prefix] for prefix in reversed(demand.prefixes) if prefix in known)
