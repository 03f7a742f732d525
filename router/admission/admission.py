"""The limits on requests of one router process: of all models together, and of single entries of the routing file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from vllama_pool.router.admission.queue import UNLIMITED, AdmissionQueue, QueueLimits
from vllama_pool.router.admission.share import share_of
from vllama_pool.router.admission.turns import Turns
from vllama_pool.router.admission.wanted import Wanted
from vllama_pool.router.admission.worker_queue import QueueBounds, WorkerQueue


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Limits on an entry's requests, of all router processes together."""

    concurrency: int | None = None
    """Requests in progress."""
    queue: int | None = None
    """Requests that wait; None for the limit of all models. Without `concurrency`, those that wait for the workers."""
    wait: float | None = None
    """Longest wait, in seconds."""
    start: float | None = None
    """Longest wait while the model has no worker, in seconds; None if it is not waited for."""
    hold: float = 0.0
    """Seconds after the latest request for which a worker stays wanted. With `start` only."""


class Waiting(NamedTuple):
    model: str
    waiting: int
    """Requests of this process."""
    absent: bool
    """True if some wait because no worker is healthy."""


class Admission:
    """Owns the queues: of each entry with a limit on its requests in progress, and of each model before its workers.

    They are kept by the entry's name, and so survive a change of the routing file.
    """

    def __init__(
        self, max_waiting: int, turns: Turns, processes: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`max_waiting`: requests of one model that may wait, where its entry says nothing else. `processes`: those
        that share the limits of `set_limits`. `clock` returns monotonic seconds."""
        self._processes = processes
        self._clock = clock
        self._turns = turns
        self._default = QueueBounds(max_waiting)
        self._bounds: dict[str, QueueBounds] = {}
        self._worker_queues: dict[str, WorkerQueue] = {}
        self._queues: dict[str, AdmissionQueue] = {}
        self._wanted: dict[str, Wanted] = {}
        """Of the entries that may be without a worker."""
        self._retired: dict[str, AdmissionQueue] = {}
        """Of entries that have no limit any more, until their requests have ended."""
        self.version = 0
        """Changes with the limits."""

    def __repr__(self) -> str:
        return f"<Admission {self.waiting} waiting, {len(self._queues)} queues>"

    @property
    def waiting(self) -> int:
        """Requests that wait for a worker."""
        return sum(queue.waiting for queue in self._worker_queues.values())

    def set_limits(self, limits: Mapping[str, RequestLimits]) -> None:
        """Replace all limits, by entry.

        A raised limit lets those that wait proceed at once; a lowered one is reached as requests end.
        """
        self.version += 1
        wanted = {name: self._queue_limits(each) for name, each in limits.items() if each.concurrency is not None}
        known = {**self._retired, **self._queues}
        self._queues = {name: known.get(name) or AdmissionQueue(each, self._clock) for name, each in wanted.items()}
        for name, queue in {**known, **self._queues}.items():
            queue.set_limits(wanted.get(name, UNLIMITED))
        self._retired = {name: queue for name, queue in known.items() if name not in wanted and not queue.is_idle}
        self._set_bounds(limits)

    def _set_bounds(self, limits: Mapping[str, RequestLimits]) -> None:
        self._bounds = {name: self._queue_bounds(each) for name, each in limits.items()}
        for name, queue in self._worker_queues.items():
            queue.bounds = self._bounds.get(name, self._default)
        starting = {name: each.hold for name, each in limits.items() if each.start is not None}
        self._wanted = {name: self._wanted_for(name, hold) for name, hold in starting.items()}

    def _wanted_for(self, name: str, hold: float) -> Wanted:
        wanted = self._wanted.get(name) or Wanted(self.worker_queue(name), hold, self._clock)
        wanted.hold = hold
        return wanted

    def _queue_bounds(self, limits: RequestLimits) -> QueueBounds:
        if limits.concurrency is not None:
            # Those with a place in the queue of the entry have waited their turn, and are not refused any more.
            length = self._share(limits.concurrency)
        else:
            length = self._default.length if limits.queue is None else self._share(limits.queue)
        return QueueBounds(length, limits.wait, limits.start)

    def queue(self, entry: str) -> AdmissionQueue | None:
        """Return the queue of an entry; None if its requests in progress are not limited."""
        return self._queues.get(entry) if self._queues else None

    def worker_queue(self, model: str) -> WorkerQueue:
        """Return the queue before a model's workers. `model`: the entry's name, or the served one without an entry."""
        queue = self._worker_queues.get(model)
        if queue is None:
            bounds = self._bounds.get(model, self._default)
            queue = self._worker_queues[model] = WorkerQueue(bounds, self._turns, self._clock)
        return queue

    def queues(self) -> Iterator[tuple[str, AdmissionQueue]]:
        """Yield the entries with limited requests in progress, and their queues."""
        yield from self._queues.items()

    def worker_queues(self) -> Iterator[tuple[str, WorkerQueue]]:
        """Yield the models that have had requests, and the queues before their workers."""
        yield from self._worker_queues.items()

    def waiting_by_model(self) -> Iterator[Waiting]:
        """Yield the models for which requests wait, for a place or for a worker."""
        for model in sorted(self._queues.keys() | self._worker_queues.keys()):
            queue, workers = self._queues.get(model), self._worker_queues.get(model)
            for_worker = workers.waiting if workers is not None else 0
            waiting = for_worker + (queue.waiting if queue is not None else 0)
            if waiting:
                yield Waiting(model, waiting, workers is not None and workers.absent)

    def wanted(self) -> Iterator[tuple[str, bool]]:
        """Yield the entries that may be without a worker, and whether one is wanted."""
        for name, wanted in self._wanted.items():
            yield name, wanted.look()

    def note_absent(self, model: str) -> None:
        """Note a request that found no worker, and goes to a fallback."""
        self.worker_queue(model).sought += 1

    def _queue_limits(self, limits: RequestLimits) -> QueueLimits:
        length = self._default.length if limits.queue is None else self._share(limits.queue)
        return QueueLimits(self._share(limits.concurrency or 1), length, limits.wait)

    def _share(self, limit: int) -> int:
        return share_of(limit, self._processes)
