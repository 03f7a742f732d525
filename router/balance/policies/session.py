"""Session: requests of one identity go to the same worker."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from vllama_pool.router.balance.demand import Demand
from vllama_pool.router.balance.hashing import first_for, order_for
from vllama_pool.router.balance.policies.least_load import least_load
from vllama_pool.router.balance.policies.load_bound import DEFAULT_BOUND, LoadBound
from vllama_pool.router.balance.policies.policy import NO_TERMS, Policy, Terms
from vllama_pool.router.balance.worker import Worker

MAX_OWNERS = 8192
"""Identities whose worker is kept. With many workers, finding it takes longest."""


class Session(Policy):
    """Picks the first worker in the order of the identity's hash, which is the same in every router.

    Sessions of a lost worker spread over the others, and return when it is back. A request passes a worker only while
    that is full and holds more than `bound` times the mean load. Without an identity, least-load decides.
    """

    name = "session"

    def __init__(self, by: str = "conversation", bound: float = DEFAULT_BOUND) -> None:
        self.by = by
        self.bound = bound
        self._owners: dict[int, Worker] = {}
        """By key, among `_candidates`."""
        self._candidates: Sequence[Worker] = ()

    def pick(self, candidates: Sequence[Worker], now: float, rng: random.Random, demand: Demand) -> Worker:
        key = demand.key
        if not key or len(candidates) == 1:
            return least_load.choose(candidates, now, rng)
        owner = self._owner(key, candidates)
        if not owner.full:
            return owner
        bound = LoadBound(candidates, self.bound, now)
        if not bound.is_overloaded(owner):
            return owner
        return next((worker for worker in order_for(key, candidates) if bound.admits(worker)), owner)

    choose = pick

    def _owner(self, key: int, candidates: Sequence[Worker]) -> Worker:
        """Return the first worker in the key's order. It is kept while a group's tuple of candidates is the same."""
        if not isinstance(candidates, tuple):
            return first_for(key, candidates)
        if candidates is not self._candidates or len(self._owners) >= MAX_OWNERS:
            self._candidates, self._owners = candidates, {}
        owner = self._owners.get(key)
        if owner is None:
            owner = self._owners[key] = first_for(key, candidates)
        return owner

    def terms(self, candidates: Sequence[Worker], now: float, demand: Demand) -> Mapping[Worker, Terms]:
        if not demand.key:
            return NO_TERMS
        bound = LoadBound(candidates, self.bound, now)
        return {
            worker: Terms(place, bound.limit, admitted=not bound.is_overloaded(worker))
            for place, worker in enumerate(order_for(demand.key, candidates), 1)
        }
