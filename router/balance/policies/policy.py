"""The interface of policies."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from vllama_pool.router.balance.demand import Demand
from vllama_pool.router.balance.worker import Worker


@dataclass(frozen=True, slots=True)
class Terms:
    """A candidate's properties that only one kind of policy looks at."""

    place: int = 0
    """Its place in the order of the request's key, from 1; 0 if the policy has none."""
    limit: float = 0.0
    """The load that it may have with one more request; 0 for no limit."""
    remembered: int = 0
    """Prefixes of the prompt that it received lately."""
    admitted: bool = True
    """False if the policy passes over it: too busy, full, or failing."""


NO_TERMS: Mapping[Worker, Terms] = MappingProxyType({})


class Policy(ABC):
    """Picks one of the candidates, of which there is at least one."""

    __slots__ = ()
    name: str
    """In the routing file."""
    by: str = ""
    """The trait whose value is the demand's key, such as "user"; "" if it needs none."""
    reads_prefixes: bool = False
    """True if it needs the demand's prefixes."""

    def choose(self, candidates: Sequence[Worker], now: float, rng: random.Random, demand: Demand) -> Worker:
        """Pick a worker, and remember the choice."""
        chosen = self.pick(candidates, now, rng, demand)
        self.record(chosen, candidates, demand)
        return chosen

    @abstractmethod
    def pick(self, candidates: Sequence[Worker], now: float, rng: random.Random, demand: Demand) -> Worker:
        """Pick a worker without effect on the policy's state."""

    def record(self, chosen: Worker, candidates: Sequence[Worker], demand: Demand) -> None:
        """Remember a choice."""
        return

    def terms(self, candidates: Sequence[Worker], now: float, demand: Demand) -> Mapping[Worker, Terms]:
        """Return the candidates' properties by which it picks, besides their score."""
        return NO_TERMS
