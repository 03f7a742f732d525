"""A request's wait for a worker, while all workers of its model are full, or it has none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from enum import Enum, auto

from vllama_pool.router.admission.tenant import Tenant
from vllama_pool.router.admission.turns import Absence
from vllama_pool.router.admission.worker_queue import Place, QueueBounds, WorkerQueue

PATIENCE = 30.0
"""Seconds for which requests that already wait stay in the queue when their model has lost its last healthy worker,
unless its entry tells how long they wait for one."""


class Taking(Enum):
    """The result of a request's turn."""

    TAKEN = auto()
    """It has a worker, or nothing to wait for."""
    FULL = auto()
    ABSENT = auto()
    """No worker is healthy."""


class WorkerTurn:
    """Waits in the queue of one model, once. Its place is given up at its turn, at the end of its time, or when the
    client leaves, whichever comes first."""

    __slots__ = (
        *("_absence", "_bounds", "_due", "_over", "_patience", "_place", "_queue", "_since", "_take", "_taken"),
        "_timers",
    )

    def __init__(self, take: Callable[[], Taking], due: Callable[[], float], patience: float = PATIENCE) -> None:
        """`due`: see `Waiter`. `patience`: see PATIENCE."""
        self._take = take
        self._due = due
        self._patience = patience
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._place: Place | None = None
        """None before the wait, and after it: a place refers to its turn."""
        self._absence = Absence()
        """That of the line, from `wait_in` on."""
        self._queue: WorkerQueue | None = None
        self._bounds = QueueBounds(0)
        self._since = 0.0
        self._taken = False
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}

    def __repr__(self) -> str:
        return f"<WorkerTurn {'taken' if self._taken else 'waits'}>"

    @property
    def absent(self) -> bool:
        """True if the model has no healthy worker, as far as those that wait have noticed."""
        return self._absence.since is not None

    def take(self) -> bool:
        """Called by the queue."""
        taking, absence, now = self._take(), self._absence, self._now()
        absence.note(now, absent=taking is Taking.ABSENT)
        if absence.since is not None and self._bounds.start is None:
            left = absence.since + self._patience - now
            if left > 0:
                self._call_later(left, self._look_again)
                return False
        elif taking is not Taking.TAKEN:
            return False
        self._taken = True
        self._end()
        return True

    def due(self) -> float:
        return self._due()

    async def wait_in(
        self, queue: WorkerQueue, tenant: Tenant, kind: Hashable, waited: float, *, absent: bool = False
    ) -> None:
        """Wait until a worker is taken, or patience has ended. `waited`: seconds before, which count against the
        queue's longest wait. `absent`: no worker is healthy now.

        Raises ServerBusy.
        """
        place = self._place = queue.join(self, tenant, kind, absent=absent)
        self._absence, self._queue, self._bounds = place.line.absence, queue, queue.bounds
        self._since = self._now() - waited
        if absent:
            self._absence.note(self._now(), absent=True)
        self._keep_time()
        try:
            await self._over
        finally:
            place.end()
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()  # these and the place refer to the turn: no garbage to collect
            self._place = None
        if not self._taken:
            raise queue.busy(absent=self.absent)

    def stop_waiting(self) -> None:
        """Leave the queue now, unless a worker is taken. Idempotent."""
        if not self._taken:
            if self._place is not None:
                self._place.end()
            self._end()

    # internal

    def _keep_time(self) -> None:
        """Stop if the longest wait is over, else look again when it may be."""
        longest = self._longest()
        if longest is None:
            if self._bounds.start is not None:  # the last worker may leave meanwhile
                self._call_later(self._bounds.start, self._keep_time)
            return
        left = self._since + longest - self._now()
        if left > 0:
            self._call_later(left, self._keep_time)
        else:
            self.stop_waiting()

    def _longest(self) -> float | None:
        """Return the longest wait: longer for requests that have waited while the model had no worker."""
        wait, start, absence = self._bounds.wait, self._bounds.start, self._absence
        if start is None or not absence.touched(self._since):
            return wait
        return max(start, wait or 0.0) if absence.since is not None or wait is not None else None

    def _look_again(self) -> None:
        if self._queue is not None and not self._over.done():
            self._queue.look()

    def _call_later(self, delay: float, action: Callable[[], None]) -> None:
        timer = self._timers.pop(action, None)
        if timer is not None:
            timer.cancel()
        self._timers[action] = asyncio.get_running_loop().call_later(delay, action)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)
