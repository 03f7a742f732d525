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
from vllama_pool.router.routing.rules import Rule


@dataclass(frozen=True, slots=True)
class Terms:
    """A model's, for each of its requests."""

    queue: AdmissionQueue | None
    """None if its requests in progress are not limited."""
    bound: Bound
    """On waiting requests, without a queue."""
    budget: RetryBudget
    rule: Rule | None
    """The entry of the routing file that set the budget."""
    version: int
    """The `Admission.version` that set the others."""


class Seat:
    """Owned by one request, for one model after the other. `leave` releases each thing once."""

    __slots__ = ("_bound", "_budget", "_places", "_terms_of")

    def __init__(self, terms_of: Callable[[Resolution], Terms]) -> None:
        self._terms_of = terms_of
        self._budget: RetryBudget | None = None
        self._bound: Bound | None = None
        self._places: Places | None = None

    def __repr__(self) -> str:
        return f"<Seat with {self._budget!r}>"

    @property
    def budget(self) -> RetryBudget:
        """Of the present model."""
        assert self._budget is not None  # from `enter` to `leave`
        return self._budget

    def enter(self, resolution: Resolution) -> AdmissionQueue | None:
        """Count the request among the model's. Return the queue that it must wait in, if there is one.

        Raises ServerBusy.
        """
        terms = self._terms_of(resolution)
        if terms.queue is None:
            terms.bound.acquire(resolution)
            self._bound = terms.bound
        self._budget = terms.budget
        self._budget.begin_request()
        return terms.queue

    async def wait_in(self, queue: AdmissionQueue, tenant: Tenant) -> None:
        """Wait for a place. Raises ServerBusy."""
        self._places = Places()
        await self._places.take(queue, tenant)

    def stop_waiting(self) -> None:
        """The response begins, or the client is gone. Idempotent."""
        bound, self._bound = self._bound, None
        if bound is not None:
            bound.release()
        if self._places is not None:
            self._places.stop_waiting()

    def leave(self) -> None:
        """Idempotent."""
        if self._bound is not None:
            self.stop_waiting()
        places, self._places = self._places, None
        if places is not None:
            places.end()
        budget, self._budget = self._budget, None
        if budget is not None:
            budget.end_request()
