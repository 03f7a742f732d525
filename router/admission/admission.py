"""The limits on requests of one router process: of all models together, and of single entries of the routing file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from vllama_pool.router.admission.bound import Bound
from vllama_pool.router.admission.queue import UNLIMITED, AdmissionQueue, QueueLimits
from vllama_pool.router.admission.share import share_of


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Limits on an entry's requests, of all router processes together."""

    concurrency: int | None = None
    """Requests in progress."""
    queue: int | None = None
    """Requests that wait; None for the limit of all models. Without `concurrency`, those that wait for the workers."""
    wait: float | None = None
    """Longest wait, in seconds."""


class Admission:
    """Owns the bound on all waiting requests, and a queue or a bound for each entry with limits of its own.

    They are kept by the entry's name, and so survive a change of the routing file.
    """

    def __init__(self, max_waiting: int, processes: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        """`processes`: those that share the limits of `set_limits`. `clock` returns monotonic seconds."""
        self._processes = processes
        self._clock = clock
        self._bound = Bound(max_waiting)
        self._bounds: dict[str, Bound] = {}
        self._queues: dict[str, AdmissionQueue] = {}
        self._retired: dict[str, AdmissionQueue] = {}
        """Of entries that have no limit any more, until their requests have ended."""
        self.version = 0
        """Changes with the limits."""

    def __repr__(self) -> str:
        return f"<Admission {self.waiting} waiting, {len(self._queues)} queues>"

    @property
    def waiting(self) -> int:
        """Requests that count against a bound."""
        return self._bound.waiting + sum(bound.waiting for bound in self._bounds.values())

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
        bounds = {
            name: self._share(each.queue)
            for name, each in limits.items()
            if each.concurrency is None and each.queue is not None
        }
        self._bounds = {name: self._bounds.get(name) or Bound(length) for name, length in bounds.items()}
        for name, length in bounds.items():
            self._bounds[name].max_waiting = length

    def queue(self, entry: str) -> AdmissionQueue | None:
        """Return the queue of an entry; None if its requests in progress are not limited."""
        return self._queues.get(entry) if self._queues else None

    def bound(self, entry: str) -> Bound:
        """Return the bound on an entry's waiting requests, without a queue of its own."""
        return self._bounds.get(entry, self._bound) if self._bounds else self._bound

    def queues(self) -> Iterator[tuple[str, AdmissionQueue]]:
        """Yield the entries with limited requests in progress, and their queues."""
        yield from self._queues.items()

    def _queue_limits(self, limits: RequestLimits) -> QueueLimits:
        length = self._bound.max_waiting if limits.queue is None else self._share(limits.queue)
        return QueueLimits(self._share(limits.concurrency or 1), length, limits.wait)

    def _share(self, limit: int) -> int:
        return share_of(limit, self._processes)
