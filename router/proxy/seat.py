"""The things that a request holds of its model: places in queues, and a share of the retry budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vllama_pool.router.admission.queue import AdmissionQueue
from vllama_pool.router.admission.tenant import Tenant
from vllama_pool.router.admission.worker_queue import WorkerQueue
from vllama_pool.router.balance.budget import RetryBudget
from vllama_pool.router.proxy.places import Places
from vllama_pool.router.proxy.waiting_request import WaitingRequest
from vllama_pool.router.proxy.worker_turn import WorkerTurn
from vllama_pool.router.routing.resolution import Resolution


@dataclass(frozen=True, slots=True)
class Terms:
    """A model's, for each of its requests."""

    queue: AdmissionQueue | None
    """None if its requests in progress are not limited."""
    workers: WorkerQueue
    """Of requests that wait because all workers are full."""
    budget: RetryBudget
    version: int
    """The `Admission.version` that set them."""


class Seat:
    """Owned by one request, for one model after the other. `leave` releases each thing once.

    It calls the budget itself, because every request comes here.
    """

    __slots__ = ("_places", "_terms", "_terms_of", "_turn", "workers")

    workers: WorkerQueue
    """Of the present or latest model. Unset before `enter`."""

    def __init__(self, terms_of: Callable[[Resolution], Terms]) -> None:
        self._terms_of = terms_of
        self._terms: Terms | None = None
        self._places: Places | None = None
        self._turn: WorkerTurn | None = None

    def __repr__(self) -> str:
        return f"<Seat with {self._terms!r}>"

    @property
    def budget(self) -> RetryBudget:
        """Of the present model."""
        assert self._terms is not None  # from `enter` to `leave`
        return self._terms.budget

    def enter(self, resolution: Resolution) -> Terms:
        """Count the request among the model's. Return the terms: it must wait in their queue first, if there is one."""
        self._terms = terms = self._terms_of(resolution)
        self.workers = terms.workers
        terms.budget.begin_request()
        return terms

    async def wait_in(self, queue: AdmissionQueue, tenant: Tenant) -> None:
        """Wait for a place. Raises ServerBusy."""
        self._places = Places()
        await self._places.take(queue, tenant)

    async def wait_for_worker(self, request: WaitingRequest, tenant: Tenant, waited: float) -> None:
        """Wait until the request has taken a worker, or does not wait any more. `waited`: seconds so far.

        Raises ServerBusy.
        """
        self._turn = turn = request.turn
        await turn.wait_in(self.workers, tenant, request.kind, waited, absent=request.absent)

    def stop_waiting(self) -> None:
        """The client is gone. Idempotent."""
        if self._turn is not None:
            self._turn.stop_waiting()
        if self._places is not None:
            self._places.stop_waiting()

    def leave(self, *, served: bool = False) -> None:
        """Idempotent. `served`: a worker had the request."""
        terms = self._terms
        if terms is None:
            return
        self._terms = None
        if self._places is not None:
            self._places.end()
            self._places = None
        if served:
            terms.workers.ended += 1
        terms.budget.end_request()
