"""The resolutions of one name: one for each order of its weighted targets, and those of its fallbacks."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import itemgetter
from typing import TypeAlias

from vllama_pool.router.balance.group import Group
from vllama_pool.router.routing.resolution import Reason, Resolution, target_name
from vllama_pool.router.routing.splits import PER_REQUEST, random_times, shares_of, sticky_times
from vllama_pool.workers.registry.virtual_model import VirtualModel

MAX_ORDERS = 64
"""Orders of one model's weighted targets whose resolution is kept."""


class Known:
    """The resolutions of a name until the models of the pool change."""

    __slots__ = (
        *("_chains", "_find_chain", "_orders", "_rng", "_seeds", "_weights"),
        *("base", "draws", "split", "virtual"),
    )

    base: Resolution
    """With the targets in the routing file's order."""

    def __init__(self, rng: random.Random, find_chain: Callable[[Reason], Chain]) -> None:
        self.split = PER_REQUEST
        self.draws = False
        """True if each request is drawn at random."""
        self.virtual: tuple[str, VirtualModel] | None = None
        """The virtual model of the name, after its key."""
        self._rng = rng
        self._find_chain = find_chain
        self._weights: tuple[float, ...] = ()
        self._seeds: tuple[bytes, ...] = ()
        self._chains: dict[Reason, Chain] = {}
        self._orders: dict[tuple[Group, ...], Resolution] = {}

    def divide(self, split: str, weights: tuple[float, ...], seeds: tuple[bytes, ...]) -> None:
        """Divide the requests among several targets, whose groups `base` has in the same order."""
        self.split, self._weights, self._seeds = split, weights, seeds
        self.draws = bool(weights) and split == PER_REQUEST

    def resolution(self) -> Resolution:
        """Return the resolution for one request: drawn, unless the draw needs the request's identity."""
        if self.draws:
            return self._ordered(random_times(self._weights, self._rng))
        return self.base

    def draw_for(self, identity: int) -> Resolution:
        if not self._weights or self.split == PER_REQUEST:
            return self.base
        if not identity:
            return self._ordered(random_times(self._weights, self._rng))
        return self._ordered(sticky_times(self._weights, self._seeds, identity))

    @property
    def shares(self) -> Mapping[str, float]:
        """The share of the requests that each target gets first. One without replicas gets none."""
        weights = self._weights or (1.0,) * len(self.base.groups)
        drawn = [(group, weight) for group, weight in zip(self.base.groups, weights, strict=True) if len(group)]
        shares: dict[str, float] = {}
        for (group, _), share in zip(drawn, shares_of([weight for _, weight in drawn]), strict=True):
            name = target_name(group)
            shares[name] = shares.get(name, 0.0) + share
        return shares

    def chain(self, reason: Reason) -> Chain:
        """Return the models that may answer instead, in order."""
        chain = self._chains.get(reason)
        if chain is None:
            chain = self._chains[reason] = self._find_chain(reason)
        return chain

    def next(self, reason: Reason, tried: Collection[str]) -> Resolution | None:
        for known in self.chain(reason):
            if known.base.key not in tried and known.base.serving:
                return known.resolution()
        return None

    def _ordered(self, times: Sequence[float]) -> Resolution:
        """Return the resolution whose first target is preferred; the others stand in for it."""
        groups = tuple(group for _, group in sorted(zip(times, self.base.groups, strict=True), key=itemgetter(0)))
        drawn = self._orders.get(groups)
        if drawn is None:
            drawn = self.base.with_groups(groups)
            if len(self._orders) < MAX_ORDERS:
                self._orders[groups] = drawn
        return drawn


Chain: TypeAlias = tuple[Known, ...]
