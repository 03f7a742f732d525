"""The things that a request holds of its model: a place, and a share of the retry budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vllama_pool.router.admission.bound import Bound
from vllama_pool.router.admission.queue import AdmissionQueue
from vllama_pool.router.admission.tenant import Tenant
from vllama_pool.router.balance.budget import RetryBudget
from vllama_pool.router.proxy.places import Places
from vllama_pool.router.routing.resolution import Resolution


@dataclass(frozen=True, slots=True)
class Terms:
    """A model's, for each of its requests."""

    queue: AdmissionQueue | None
    """None if its requests in progress are not limited."""
    bound: Bound
    """On waiting requests, without a queue."""
    budget: RetryBudget
    version: int
    """The `Admission.version` that set them."""


class Seat:
    """Owned by one request, for one model after the other. `leave` releases each thing once.

    It counts in `Bound` without a call, because every request comes here.
    """

    __slots__ = ("_places", "_terms", "_terms_of", "_waits")

    def __init__(self, terms_of: Callable[[Resolution], Terms]) -> None:
        self._terms_of = terms_of
        self._terms: Terms | None = None
        self._waits = False
        self._places: Places | None = None

    def __repr__(self) -> str:
        return f"<Seat with {self._terms!r}>"

    @property
    def budget(self) -> RetryBudget:
        """Of the present model."""
        assert self._terms is not None  # from `enter` to `leave`
        return self._terms.budget

    def enter(self, resolution: Resolution) -> AdmissionQueue | None:
        """Count the request among the model's. Return the queue that it must wait in, if there is one.

        Raises ServerBusy.
        """
        terms = self._terms_of(resolution)
        if terms.queue is None:
            bound = terms.bound
            if bound.waiting >= bound.max_waiting:
                bound.check(resolution)
            bound.waiting += 1
            self._waits = True
        self._terms = terms
        terms.budget.begin_request()
        return terms.queue

    async def wait_in(self, queue: AdmissionQueue, tenant: Tenant) -> None:
        """Wait for a place. Raises ServerBusy."""
        self._places = Places()
        await self._places.take(queue, tenant)

    def stop_waiting(self) -> None:
        """The response begins, or the client is gone. Idempotent."""
        if self._waits:
            self._waits = False
            assert self._terms is not None
            self._terms.bound.waiting -= 1
        if self._places is not None:
            self._places.stop_waiting()

    def leave(self) -> None:
        """Idempotent."""
        terms = self._terms
        if terms is None:
            return
        if self._waits:
            self.stop_waiting()
        self._terms = None
        if self._places is not None:
            self._places.end()
            self._places = None
        terms.budget.end_request()
