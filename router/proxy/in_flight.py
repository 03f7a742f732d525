"""One request from its admission to the end of the client's response."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from vllama_pool.router.admission.admission import Admission
from vllama_pool.router.admission.bound import Bound
from vllama_pool.router.admission.queue import AdmissionQueue
from vllama_pool.router.balance.budget import RetryBudget
from vllama_pool.router.balance.demand import Demand
from vllama_pool.router.balance.retry import Attempts, GiveUp, Retry, decide, most_specific
from vllama_pool.router.balance.worker import Replica
from vllama_pool.router.errors import AttemptFailed, ModelGone
from vllama_pool.router.protocol.operation import DirectResponse
from vllama_pool.router.proxy.attempt import Attempt, ForwardRequest, Upstream
from vllama_pool.router.proxy.client_writer import ClientWriter
from vllama_pool.router.proxy.places import Places
from vllama_pool.router.proxy.worker_errors import client_error, transport_failure
from vllama_pool.router.routing.resolve import Resolution
from vllama_pool.router.telemetry.decisions import Choice
from vllama_pool.router.telemetry.request_record import RequestRecord
from vllama_pool.router.upstream.interface import TransportError

_log = logging.getLogger(__name__)


class ClientGone(Exception):
    """The client disconnected before its response began."""


@dataclass(frozen=True, slots=True)
class Shared:
    """The collaborators that all requests of a process share."""

    upstream: Upstream
    rng: random.Random
    admission: Admission
    refresh: Callable[[], None]
    """Called when a worker answers 404 for a model in its record, which is then stale."""
    debug: bool = False
    """Log each choice and answer."""


class InFlight:
    """Owns a request's places in queues and among the waiting, its budget share, and its present attempt.

    `close` releases each once. Nothing is retried once the client has a byte.
    """

    __slots__ = (
        *("_attempt", "_bound", "_budget", "_closed", "_places", "_queues", "_shared", "_task"),
        *("call", "client", "client_left", "on_answer", "record", "waiting"),
    )

    def __init__(
        self,
        shared: Shared,
        call: ForwardRequest,
        record: RequestRecord,
        client: ClientWriter,
        budget: RetryBudget,
        on_answer: Callable[[], None],
        bound: Bound | None = None,
        queues: tuple[AdmissionQueue, ...] = (),
    ) -> None:
        """`on_answer` is called before a response that is not streamed is written. `bound` counts the request until its
        response begins. It needs a place of each of `queues`, in this order."""
        self._shared = shared
        self._budget = budget
        self._task = asyncio.current_task()
        self._attempt: Attempt | None = None
        self._closed = False
        self._bound = bound
        self._queues = queues
        self._places: Places | None = None
        self.call = call
        self.record = record
        self.client = client
        self.on_answer = on_answer
        self.waiting = True
        """The client's response has not begun."""
        self.client_left = False

    def close(self) -> None:
        """Release everything. Idempotent."""
        if self._closed:
            return
        self._closed = True
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.close()
        if self.waiting:
            self._stop_waiting()
        if self._places is not None:
            self._places.end()
        self._budget.end_request()

    async def run(self) -> DirectResponse | None:
        """Send the request to a worker, and to another one after a failure, until the client has its response.

        Returns a response that the preflight sufficed for, unsent. Raises NoWorker, ServerBusy, the most specific
        failure as ClientError, and ClientGone.
        """
        tried: list[str] = []
        failures: list[AttemptFailed] = []
        try:
            if self._queues:
                await self._take_places(self._queues)
            while True:
                replica = self._choose(tried)
                if replica is None:
                    raise client_error(most_specific(failures)) if failures else self.call.resolution.no_worker()
                tried.append(replica.worker.id)
                self.call.decision.choices += (Choice(replica.worker.id),)
                attempt = self._attempt = Attempt(self, replica, self._shared.upstream)
                try:
                    return await attempt.run()
                except TransportError as error:
                    failure: AttemptFailed = transport_failure(error)
                except AttemptFailed as error:
                    failure = error.with_traceback(None)  # its frames hold the request, and refer to the failure
                attempt.fail(failure)
                self._record_failure(replica, failure)
                failures.append(failure)
                decision = self._decide(tried, failures)
                if isinstance(decision, GiveUp):
                    raise client_error(decision.failure) from None
                if decision.delay:
                    await asyncio.sleep(decision.delay)
        except asyncio.CancelledError:
            if self.client_left and self.waiting and self._task is not None and self._task.uncancel() == 0:
                raise ClientGone from None
            raise

    def client_gone(self) -> None:
        """The client disconnected. Called by the server."""
        self.client_left = True
        if self._attempt is not None:
            self._attempt.client_gone()
        if self._places is not None:
            self._places.stop_waiting()
        if self.waiting and self._task is not None:
            self._task.cancel()

    def begin_response(self) -> None:
        """The present attempt's answer is the client's response. Idempotent."""
        if not self.waiting:
            return
        self._stop_waiting()
        self.call.request = self.call.asker = None
        shared, record = self._shared, self.record
        record.status = 200
        record.first_ms = (shared.upstream.clock.monotonic_ns() - self.call.arrived) // 1000 / 1000
        if self._attempt is not None:
            self._attempt.lease.record_first_content()
        if shared.debug:
            _log.debug("request %s: %s answers", record.id, record.worker)

    # internal

    async def _take_places(self, queues: tuple[AdmissionQueue, ...]) -> None:
        """Raises ServerBusy."""
        places = self._places = Places()
        clock = self._shared.upstream.clock
        entered = clock.monotonic_ns()
        try:
            for queue in queues:
                await places.take(queue)
        finally:
            self.record.queue_ms = (clock.monotonic_ns() - entered) // 1000 / 1000

    def _choose(self, tried: list[str]) -> Replica | None:
        shared, resolution = self._shared, self.call.resolution
        now = shared.upstream.clock.monotonic_ns() / 1e9
        demand = self.call.demand
        replica = resolution.choose(tried, now, shared.rng, demand)
        if shared.debug:
            _log_choice(self.record.id, resolution, replica, tried, now, demand)
        return replica

    def _decide(self, tried: list[str], failures: list[AttemptFailed]) -> Retry | GiveUp:
        shared, budget = self._shared, self._budget
        if isinstance(failures[-1], ModelGone):
            shared.refresh()
        untried = self.call.resolution.count_untried(tried, shared.upstream.clock.monotonic_ns() / 1e9)
        decision = decide(Attempts(tuple(failures), untried, budget.available), shared.rng)
        if isinstance(decision, Retry) and decision.budgeted:
            budget.try_spend()
        return decision

    def _stop_waiting(self) -> None:
        self.waiting = False
        if self._bound is not None:
            self._bound.release()

    def _record_failure(self, replica: Replica, failure: AttemptFailed) -> None:
        # Without the text: vLLM's errors may quote the prompt.
        name = type(failure).__name__
        _log.debug("request %s: %s failed: %s %d", self.record.id, replica.worker.id, name, failure.status)
        self.record.failures.append(name)


def _log_choice(
    request_id: str, resolution: Resolution, replica: Replica | None, tried: list[str], now: float, demand: Demand
) -> None:
    others = resolution.rejections(tried, now, replica, demand)
    reasons = ", ".join(f"{worker}: {reason}" for worker, reason in others.items()) or "none"
    chosen = replica.worker.id if replica else "no worker"
    _log.debug("request %s: chose %s for %s; others: %s", request_id, chosen, resolution.model, reasons)
