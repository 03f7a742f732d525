"""The things that a request holds while it is served: places in queues, and a share of the retry budget."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from vllama_pool.router.admission.queue import AdmissionQueue
from vllama_pool.router.admission.tenant import Tenant, anonymous
from vllama_pool.router.admission.worker_queue import WorkerQueue
from vllama_pool.router.balance.budget import RetryBudget
from vllama_pool.router.protocol.operation import Clock
from vllama_pool.router.proxy.forward_request import ForwardRequest
from vllama_pool.router.proxy.places import Places
from vllama_pool.router.proxy.waiting_request import WaitingRequest
from vllama_pool.router.proxy.worker_turn import WorkerTurn
from vllama_pool.router.routing.resolution import Resolution
from vllama_pool.router.telemetry.request_record import RequestRecord


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
    """Owned by one request, for one model after the other. `leave` and `leave_caps` release each thing once.

    It calls the budget itself, because every request comes here.
    """

    __slots__ = ("_caps", "_places", "_terms", "_terms_of", "_turn", "workers")

    workers: WorkerQueue
    """Of the present or latest model. Unset before `enter`."""

    def __init__(self, terms_of: Callable[[Resolution], Terms]) -> None:
        self._terms_of = terms_of
        self._caps: Places | None = None
        """Places in the limits of the API key."""
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

    async def take_caps(self, call: ForwardRequest, clock: Clock) -> None:
        """Wait for a place in each limit of the API key. Raises ServerBusy."""
        self._caps = caps = Places()
        for cap in call.grant.caps:
            await _timed(caps.take(cap), call.decision.record, clock)

    async def wait_in(self, queue: AdmissionQueue, call: ForwardRequest, clock: Clock) -> None:
        """Wait for one of the model's places. Raises ServerBusy."""
        self._places = Places()
        await _timed(self._places.take(queue, _tenant(call)), call.decision.record, clock)

    async def wait_for_worker(self, request: WaitingRequest, call: ForwardRequest, clock: Clock) -> None:
        """Wait until the request has taken a worker, or does not wait any more. Raises ServerBusy."""
        self._turn = turn = WorkerTurn(request.take, request.next_change, request.patience)
        record = call.decision.record
        waited = record.queue_ms / 1000
        waiting = turn.wait_in(self.workers, _tenant(call), request.kind, waited, absent=request.absent)
        try:
            await _timed(waiting, record, clock)
        finally:
            self._turn = None  # it refers to the request, which refers to this seat: no garbage to collect
            request.lost_workers = turn.absent

    def stop_waiting(self) -> None:
        """The client is gone, or the request's time is over. Idempotent."""
        for waiting in (self._turn, self._places, self._caps):
            if waiting is not None:
                waiting.stop_waiting()

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

    def leave_caps(self) -> None:
        """Idempotent."""
        if self._caps is not None:
            self._caps.end()


def _tenant(call: ForwardRequest) -> Tenant:
    return call.grant.tenant or anonymous(call.decision.record.address)


async def _timed(turn: Coroutine[Any, Any, None], record: RequestRecord, clock: Clock) -> None:
    """Note the time in the queue. Raises ServerBusy."""
    entered = clock.monotonic_ns()
    try:
        await turn
    finally:
        record.queue_ms += (clock.monotonic_ns() - entered) // 1000 / 1000
