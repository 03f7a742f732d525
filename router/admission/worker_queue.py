"""The requests of a model that wait because all of its workers are full.

First in, first out within a tenant, weighted fair among tenants. A queue knows neither workers nor an event loop: its
requests try to take a worker themselves, when `Turns` gives the queue its turn.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from vllama_pool.router.admission.busy import BUSY
from vllama_pool.router.admission.drain_rate import DrainRate
from vllama_pool.router.admission.tenant import Tenant
from vllama_pool.router.admission.turns import Line, Turns, Waiter
from vllama_pool.router.errors import ServerBusy

ANY_WORKER: Hashable = None
"""The kind of requests that any worker of the model may answer."""


ABSENT_RETRY_AFTER = 5
"""Least seconds in the Retry-After of a model without a worker."""


@dataclass(frozen=True, slots=True)
class QueueBounds:
    """The share of one router process."""

    length: int
    """Waiting requests."""
    wait: float | None = None
    """Longest wait, in seconds."""
    start: float | None = None
    """Longest wait of a request that finds no worker, in seconds; None if the model must have one."""


class WorkerQueue:
    """One line for each set of workers that the requests of a model may need, such as those with a larger context."""

    def __init__(self, bounds: QueueBounds, turns: Turns, clock: Callable[[], float]) -> None:
        """`clock` returns monotonic seconds."""
        self.bounds = bounds
        self.waiting = 0
        """Read by each request before it chooses a worker."""
        self.refused = 0
        """Requests so far that found the queue full, or waited too long."""
        self.ended = 0
        """Requests of the model so far that have ended. Counted by those requests."""
        self.sought = 0
        """Requests so far that found no worker with room."""
        self.in_progress: Callable[[], int] = lambda: 0
        """Returns the model's requests from their admission to their end. Set by their owner."""
        self._turns = turns
        self._clock = clock
        self._drain = DrainRate(lambda: self.ended)
        self._lines: dict[Hashable, Line] = {}

    def __repr__(self) -> str:
        return f"<WorkerQueue {self.waiting} waiting>"

    def join(self, waiter: Waiter, tenant: Tenant, kind: Hashable, *, absent: bool = False) -> Place:
        """Wait. `kind`: tells the lines apart. `absent`: see `busy`. Raises ServerBusy.

        The line `ANY_WORKER` takes all further requests while it lasts, so that nobody overtakes those that have waited
        for the model's first worker.
        """
        self.sought += 1
        if self.waiting >= self.bounds.length:
            raise self.busy(absent=absent)
        self._drain.look(self._clock())
        line = self._lines.get(ANY_WORKER) or self._lines.get(kind)
        if line is None:
            line = self._lines[kind] = Line()
        self.waiting += 1
        self._turns.add(line, waiter, tenant)
        return Place(self, line, waiter)

    def busy(self, *, absent: bool = False) -> ServerBusy:
        """Return the error of a request that may not wait, or not longer, and count it. `absent`: for a worker to join,
        which the rate at which requests end tells nothing of."""
        self.refused += 1
        return ServerBusy(BUSY, retry_after=max(self.retry_after(), ABSENT_RETRY_AFTER if absent else 0))

    def retry_after(self) -> int:
        """Return the seconds in which those that wait now, and one more, get their turn."""
        return self._drain.retry_after(self.waiting, self._clock())

    @property
    def seconds_to_drain(self) -> float:
        """Time in which those that wait now get their turn, at the present rate; 0 if the rate is unknown."""
        rate = self._drain.look(self._clock())
        return self.waiting / rate if rate else 0.0

    @property
    def absent(self) -> bool:
        """True if requests wait because no worker is healthy."""
        return any(line.absence.since is not None for line in self._lines.values())

    def look(self) -> None:
        """Give the requests their turns soon, without an event."""
        self._turns.note()

    def leave(self, place: Place) -> None:
        """Called by the place, once."""
        self.waiting -= 1
        if self._turns.remove(place.line, place.waiter):
            self._lines = {kind: each for kind, each in self._lines.items() if each is not place.line}


class Place:
    """A request's place in a queue. Its owner calls `end` on every path."""

    __slots__ = ("_queue", "ended", "line", "waiter")

    def __init__(self, queue: WorkerQueue, line: Line, waiter: Waiter) -> None:
        self._queue = queue
        self.line = line
        self.waiter = waiter
        self.ended = False

    def __repr__(self) -> str:
        return f"<Place{', ended' if self.ended else ''}>"

    def end(self) -> None:
        """Leave the queue, before or after the turn. Idempotent."""
        if not self.ended:
            self.ended = True
            self._queue.leave(self)
