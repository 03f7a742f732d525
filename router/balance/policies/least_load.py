"""Least-load: the lowest score of four random candidates."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from vllama_pool.router.balance.demand import PLAIN, Demand
from vllama_pool.router.balance.policies.policy import Policy
from vllama_pool.router.balance.score import rank
from vllama_pool.router.balance.worker import Worker

SAMPLE_SIZE = 4
"""Candidates that least-load compares. With more, routers that share a stale report would all pick the same worker;
with fewer, idle workers are missed."""

TIE_FACTOR = 1.02
"""Scores within this factor of the best count as equal."""


class LeastLoad(Policy):
    """Picks the lowest score of four random candidates; workers without a free slot rank last.

    Ties are drawn at random: a strict comparison in a fixed order would always pick the same worker.
    """

    __slots__ = ()
    name = "least-load"

    def choose(self, candidates: Sequence[Worker], now: float, rng: random.Random, demand: Demand = PLAIN) -> Worker:
        if len(candidates) == 1:
            return candidates[0]
        sample = candidates if len(candidates) <= SAMPLE_SIZE else _sample(candidates, rng.random)
        ranks = [rank(worker, now) for worker in sample]
        best = min(ranks)
        bound = best * TIE_FACTOR if best > 0 else best / TIE_FACTOR
        equals = [worker for worker, own in zip(sample, ranks, strict=True) if own <= bound]
        return equals[0] if len(equals) == 1 else equals[int(rng.random() * len(equals))]

    pick = choose


least_load = LeastLoad()
"""It has no state."""


def _sample(candidates: Sequence[Worker], draw: Callable[[], float]) -> tuple[Worker, ...]:
    """Return SAMPLE_SIZE different ones. `random.sample`, or a loop, takes several times as long."""
    count = len(candidates)
    a, b, c, d = int(draw() * count), int(draw() * count), int(draw() * count), int(draw() * count)
    while b == a:
        b = int(draw() * count)
    while c in (a, b):
        c = int(draw() * count)
    while d in (a, b, c):
        d = int(draw() * count)
    return candidates[a], candidates[b], candidates[c], candidates[d]
