"""Sends a request to a worker, and to another one after a failure, until the client's answer may begin.

Nothing is retried once the client has a byte. A `WorkerResponse` owns the response and the lease, and
releases both once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from vllama_pool.router.admission.bound import Admission
from vllama_pool.router.balance.budget import RetryBudget
from vllama_pool.router.balance.lease import Abandoned, Completed, Errored
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.balance.retry import Attempts, GiveUp, Retry, decide, most_specific
from vllama_pool.router.balance.worker import Replica
from vllama_pool.router.errors import AttemptFailed, Lost, ModelGone, NoWorker, Refused
from vllama_pool.router.offload import offload
from vllama_pool.router.protocol.operation import Clock, DirectResponse, NextStep, Operation, Timing, UpstreamRequest
from vllama_pool.router.proxy.attempt import PendingAttempt, WorkerResponse, first_content
from vllama_pool.router.proxy.preflight import follow
from vllama_pool.router.proxy.stalls import StallWatch
from vllama_pool.router.proxy.worker_errors import client_error, refused_by
from vllama_pool.router.routing.resolve import Resolution
from vllama_pool.router.telemetry.request_record import RequestRecord
from vllama_pool.router.upstream.interface import Client, Response, TransportError

_Result: TypeAlias = WorkerResponse | DirectResponse

_log = logging.getLogger(__name__)

MOST_REMEDIES = 3
"""Adapted requests per attempt: fewer stop strings, fewer tokens, a shorter prompt."""

WORKER_LOST = "the worker was lost while it was answering; send the request again"


@dataclass(frozen=True, slots=True)
class ForwardRequest:
    """A decoded request whose model is resolved."""

    operation: Operation[Any]
    request: Any
    resolution: Resolution
    arrived: int
    """Monotonic nanoseconds at which the request was complete."""
    request_id: str
    size: int
    """Bytes of the body."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits before the response begins."""

    connect: float = 1.0
    """Connect time-out in seconds."""
    waiting: int = 512
    """Requests; see `Admission`."""


class Forwarder:
    """Sends requests to workers. Owns the retry budgets, one per model."""

    def __init__(
        self,
        client: Client,
        pool: Pool,
        stalls: StallWatch,
        clock: Clock,
        rng: random.Random,
        *,
        limits: Limits,
        refresh: Callable[[], None],
    ) -> None:
        """`refresh` is called when a worker answers 404 for a model that it claimed: its record is stale."""
        self._client = client
        self._pool = pool
        self._stalls = stalls
        self._clock = clock
        self._rng = rng
        self._limits = limits
        self._refresh = refresh
        self._admission = Admission(limits.waiting)
        self._budgets: dict[str, RetryBudget] = {}

    def __repr__(self) -> str:
        in_flight = sum(budget.in_flight for budget in self._budgets.values())
        return f"<Forwarder {self._admission.waiting} waiting, {in_flight} in flight>"

    async def acquire(self, call: ForwardRequest, record: RequestRecord) -> _Result:
        """Return the first worker's response that may begin, or a direct response if the preflight sufficed.

        Raises ClientError: ServerBusy, NoWorker, or the most specific failure. Cancelling it cancels the worker's
        request.
        """
        self._admission.acquire(call.resolution)
        budget = self._budgets.setdefault(call.resolution.model, RetryBudget())
        budget.begin_request()
        try:
            answer = await self._acquire(call, record, budget)
        except BaseException:
            budget.end_request()
            raise
        finally:
            self._admission.release()
        if isinstance(answer, DirectResponse):
            budget.end_request()
        else:
            answer.budget = budget
        return answer

    async def _acquire(self, call: ForwardRequest, record: RequestRecord, budget: RetryBudget) -> _Result:
        tried: list[str] = []
        failures: list[AttemptFailed] = []
        while True:
            try:
                return await self._attempt(call, tried, record)
            except AttemptFailed as failure:
                failures.append(failure)
            except NoWorker:
                if not failures:
                    raise
                raise client_error(most_specific(failures)) from None  # the remaining workers have left meanwhile
            decision = self._decide(call, tried, failures, budget)
            if isinstance(decision, GiveUp):
                raise client_error(decision.failure) from None
            if decision.delay:
                await asyncio.sleep(decision.delay)

    def _decide(
        self, call: ForwardRequest, tried: list[str], failures: list[AttemptFailed], budget: RetryBudget
    ) -> Retry | GiveUp:
        if isinstance(failures[-1], ModelGone):
            self._refresh()
        untried = call.resolution.count_untried(tried, self._now())
        decision = decide(Attempts(tuple(failures), untried, budget.available), self._rng)
        if isinstance(decision, Retry) and decision.budgeted:
            budget.try_spend()
        return decision

    async def _attempt(self, call: ForwardRequest, tried: list[str], record: RequestRecord) -> _Result:
        """Try one worker. Raises AttemptFailed; NoWorker if none is left."""
        now = self._now()
        replica = call.resolution.choose(tried, now, self._rng)
        if _log.isEnabledFor(logging.DEBUG):
            _log_choice(call, replica, tried, now)
        if replica is None:
            raise call.resolution.no_worker()
        tried.append(replica.worker.id)
        record.attempts += 1
        record.worker, record.served = replica.worker.id, replica.model.name
        lease = self._pool.lease(replica.worker, replica.model.name)
        try:
            async with asyncio.timeout(None) as allowed:
                attempt = PendingAttempt(lease, allowed)
                with self._stalls.watching(attempt):
                    answer = await self._answer(call, replica, attempt, record)
        except TimeoutError:
            failure: AttemptFailed = Lost(attempt.reason or "the worker did not answer in time", status=504)
        except TransportError as error:
            failure = Lost(f"the worker could not be reached or was lost: {error}", status=502)
        except AttemptFailed as error:
            failure = error
        except BaseException:  # cancelled, or a fault of ours: no effect on the worker's health
            lease.release(Abandoned())
            raise
        else:
            if isinstance(answer, DirectResponse):
                lease.release(Completed(0))
            else:
                lease.record_first_content()
            _log.debug("request %s: %s answers", call.request_id, replica.worker.id)
            return answer
        # Without the text: vLLM's errors may quote the prompt.
        _log.debug(
            "request %s: %s failed: %s %d", call.request_id, replica.worker.id, type(failure).__name__, failure.status
        )
        record.failures.append(type(failure).__name__)
        lease.release(Errored(failure))
        raise failure

    async def _answer(
        self, call: ForwardRequest, replica: Replica, attempt: PendingAttempt, record: RequestRecord
    ) -> _Result:
        """Send the request, and adapted forms of it while the worker refuses it."""
        operation, defaults = call.operation, call.resolution.defaults
        step = await offload(call.size, operation.prepare, call.request, replica.model, defaults)
        refusals: list[Refused] = []
        while True:
            try:
                return await self._take(call, replica, step, attempt, record)
            except Refused as refused:
                again = any(refused.text == earlier.text for earlier in refusals)
                refusals.append(refused)
            other = None
            if operation.adapt is not None and not again and len(refusals) <= MOST_REMEDIES:
                other = await offload(call.size, operation.adapt, call.request, replica.model, defaults, *refusals)
            if other is None:
                raise refusals[0]
            step = other

    async def _take(
        self, call: ForwardRequest, replica: Replica, step: NextStep, attempt: PendingAttempt, record: RequestRecord
    ) -> _Result:
        """Follow the preflight, send the request, and read until the client's response may begin."""
        if not isinstance(step, UpstreamRequest):
            send = partial(self._send, call, replica)
            step = await follow(step, send, attempt.heard, call.size)
            if isinstance(step, DirectResponse):
                return step
        timing = Timing(call.arrived, self._clock.monotonic_ns())
        response = await self._send(call, replica, step.path, step.body)
        try:
            if response.status != 200:
                raise await refused_by(response)
            translator = (step.translator or call.operation.translator)(call.request, timing, self._clock)
            try:
                first = await first_content(response, translator, attempt.content)
            except BaseException:
                record.discarded_tokens += translator.usage.completion_tokens
                raise
            return WorkerResponse(attempt.lease, response, translator, first)
        except BaseException:
            response.close()
            raise

    async def _send(self, call: ForwardRequest, replica: Replica, path: str, body: bytes) -> Response:
        return await self._client.send(
            replica.worker.endpoint,
            "POST",
            path,
            headers=_headers(call.request_id),
            body=body,
            connect_timeout=self._limits.connect,
            head_timeout=None,  # the stall watch ends attempts that take too long
        )

    def _now(self) -> float:
        return self._clock.monotonic_ns() / 1e9


def _log_choice(call: ForwardRequest, replica: Replica | None, tried: list[str], now: float) -> None:
    """At debug: the chosen worker, and the reason why each other one was not chosen."""
    others = call.resolution.rejections(tried, now, replica)
    reasons = ", ".join(f"{worker}: {reason}" for worker, reason in others.items()) or "none"
    chosen = replica.worker.id if replica else "no worker"
    _log.debug("request %s: chose %s for %s; others: %s", call.request_id, chosen, call.resolution.model, reasons)


def _headers(request_id: str) -> Mapping[str, str]:
    return {"content-type": "application/json", "accept": "text/event-stream", "x-request-id": request_id}
