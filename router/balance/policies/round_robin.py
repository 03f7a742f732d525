"""Round-robin: the least recently chosen worker."""

from __future__ import annotations

import random
from collections.abc import Sequence
from heapq import heapify, heapreplace

from vllama_pool.router.balance.demand import PLAIN, Demand
from vllama_pool.router.balance.policies.policy import Policy
from vllama_pool.router.balance.worker import Worker

MAX_REMEMBERED_TURNS = 4096
MAX_QUEUES = 8
"""Lists of candidates whose order of turns is kept."""

_Turns = list[tuple[int, int]]
"""A heap of (latest turn, index of the candidate)."""


class RoundRobin(Policy):
    """Picks the least recently chosen worker, whatever its load."""

    name = "round-robin"

    def __init__(self) -> None:
        self._turn = 0
        self._last_turn: dict[str, int] = {}
        self._queues: dict[int, tuple[Sequence[Worker], _Turns]] = {}

    def choose(self, candidates: Sequence[Worker], now: float, rng: random.Random, demand: Demand = PLAIN) -> Worker:
        queue = self._queue(candidates)
        chosen = self._next(candidates, queue)
        self._turn += 1
        heapreplace(queue, (self._turn, queue[0][1]))
        last_turn = self._last_turn
        last_turn.pop(chosen.id, None)
        last_turn[chosen.id] = self._turn
        if len(last_turn) > MAX_REMEMBERED_TURNS:
            del last_turn[next(iter(last_turn))]
        return chosen

    def pick(self, candidates: Sequence[Worker], now: float, rng: random.Random, demand: Demand = PLAIN) -> Worker:
        return self._next(candidates, self._queue(candidates))

    def _next(self, candidates: Sequence[Worker], queue: _Turns) -> Worker:
        """Return the candidate whose turn it is, and put it at the head of the queue."""
        while True:
            queued, index = queue[0]
            candidate = candidates[index]
            turn = self._last_turn.get(candidate.id, -1)
            if turn <= queued:
                return candidate
            heapreplace(queue, (turn, index))  # it was chosen from other candidates meanwhile

    def _queue(self, candidates: Sequence[Worker]) -> _Turns:
        """Return the turns of the candidates; a group's tuple keeps its heap while it is the same."""
        known = self._queues.get(id(candidates))
        if known is not None:
            return known[1]
        queue = [(self._last_turn.get(worker.id, -1), index) for index, worker in enumerate(candidates)]
        heapify(queue)
        if isinstance(candidates, tuple):
            self._queues[id(candidates)] = candidates, queue  # holds the tuple, so that its id stays its own
            if len(self._queues) > MAX_QUEUES:
                del self._queues[next(iter(self._queues))]
        return queue
