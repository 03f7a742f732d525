"""Tells what starts and stops workers whether a model needs one."""

from __future__ import annotations

from collections.abc import Callable

from vllama_pool.router.admission.worker_queue import WorkerQueue


class Wanted:
    """Looks at a model's counts. Costs its requests nothing: the latest one is as late as the look that sees it."""

    __slots__ = ("_clock", "_queue", "_seen", "_until", "hold")

    def __init__(self, queue: WorkerQueue, hold: float, clock: Callable[[], float]) -> None:
        """`hold`: seconds after the latest request for which a worker stays wanted."""
        self.hold = hold
        self._queue = queue
        self._clock = clock
        self._seen = queue.ended + queue.sought
        self._until = float("-inf")

    def __repr__(self) -> str:
        return f"<Wanted for {self.hold} s>"

    def look(self) -> bool:
        """Return True if requests wait or are in progress, or the latest one was within `hold`."""
        queue, now = self._queue, self._clock()
        seen = queue.ended + queue.sought
        if queue.waiting or queue.in_progress() or seen != self._seen:
            self._seen, self._until = seen, now + self.hold
        return now < self._until
