"""A request's wait for a worker, while all workers of its model are full."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable

from vllama_pool.router.admission.tenant import Tenant
from vllama_pool.router.admission.worker_queue import Place, WorkerQueue


class WorkerTurn:
    """Waits in the queue of one model, once. Its place is given up at its turn, at the end of its time, or when the
    client leaves, whichever comes first."""

    __slots__ = ("_due", "_over", "_place", "_take", "_taken")

    def __init__(self, take: Callable[[], bool], due: Callable[[], float]) -> None:
        """`take` and `due`: see `Waiter`."""
        self._take = take
        self._due = due
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._place: Place | None = None
        self._taken = False

    def __repr__(self) -> str:
        return f"<WorkerTurn {'taken' if self._taken else 'waits'}>"

    def take(self) -> bool:
        """Called by the queue."""
        if self._take():
            self._taken = True
            self._end()
            return True
        return False

    def due(self) -> float:
        return self._due()

    async def wait_in(self, queue: WorkerQueue, tenant: Tenant, kind: Hashable, waited: float) -> None:
        """Wait until a worker is taken. `waited`: seconds before, which count against the queue's longest wait.

        Raises ServerBusy.
        """
        self._place = place = queue.join(self, tenant, kind)
        longest = queue.bounds.wait
        timer = None
        if longest is not None:
            timer = asyncio.get_running_loop().call_later(max(0.0, longest - waited), self.stop_waiting)
        try:
            await self._over
        finally:
            place.end()
            if timer is not None:
                timer.cancel()
        if not self._taken:
            raise queue.busy()

    def stop_waiting(self) -> None:
        """Leave the queue now, unless a worker is taken. Idempotent."""
        if not self._taken:
            if self._place is not None:
                self._place.end()
            self._end()

    def _end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)
