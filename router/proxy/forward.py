"""Sends a request to a worker, and to another one after a failure, until the client's response may begin.

Nothing is retried once the client has a byte.
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
from vllama_pool.router.errors import AttemptFailed, Faulty, Lost, ModelGone, NoWorker, Refused
from vllama_pool.router.offload import offload
from vllama_pool.router.protocol.operation import Clock, DirectResponse, NextStep, Operation, Timing, UpstreamRequest
from vllama_pool.router.proxy.attempt import PendingAttempt, WorkerResponse, read_first_content
from vllama_pool.router.proxy.preflight import run_preflight
from vllama_pool.router.proxy.stalls import StallWatch
from vllama_pool.router.proxy.worker_errors import client_error, read_failure
from vllama_pool.router.routing.resolve import Resolution
from vllama_pool.router.telemetry.request_record import RequestRecord
from vllama_pool.router.upstream.interface import Client, ConnectFailed, Response, TransportError

_Result: TypeAlias = WorkerResponse | DirectResponse

_log = logging.getLogger(__name__)

MAX_ADAPTATIONS = 5
"""Adapted requests per attempt: fewer stop strings, fewer tokens, a shorter prompt, joined messages, a closed turn."""

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

    connect_timeout: float = 1.0
    """Seconds."""
    max_waiting: int = 512
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
        """`refresh` is called when a worker answers 404 for a model in its record, which is then stale."""
        self._client = client
        self._pool = pool
        self._stalls = stalls
        self._clock = clock
        self._rng = rng
        self._limits = limits
        self._refresh = refresh
        self._admission = Admission(limits.max_waiting)
        self._budgets: dict[str, RetryBudget] = {}

    def __repr__(self) -> str:
        in_flight = sum(budget.in_flight for budget in self._budgets.values())
        return f"<Forwarder {self._admission.waiting} waiting, {in_flight} in flight>"

    async def acquire(self, call: ForwardRequest, record: RequestRecord) -> _Result:
        """Return the first worker's response that may begin, or a direct response if the preflight sufficed.

        Raises ServerBusy, NoWorker, or the most specific failure as ClientError. Cancelling it closes the worker's
        connection.
        """
        self._admission.acquire(call.resolution)
        budget = self._budgets.setdefault(call.resolution.model, RetryBudget())
        budget.begin_request()
        try:
            answer = await self._retry_until_response(call, record, budget)
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

    async def _retry_until_response(self, call: ForwardRequest, record: RequestRecord, budget: RetryBudget) -> _Result:
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
                raise client_error(most_specific(failures)) from None  # the last workers left meanwhile
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
            async with asyncio.timeout(None) as deadline:
                attempt = PendingAttempt(lease, deadline)
                with self._stalls.watching(attempt):
                    answer = await self._send_adapting(call, replica, attempt, record)
        except TimeoutError:
            failure: AttemptFailed = Lost(attempt.abort_reason or "the worker did not answer in time", status=504)
        except TransportError as error:
            what = "could not be reached" if isinstance(error, ConnectFailed) else "was lost"
            failure = Lost(f"the worker {what}: {error}", status=502)
        except AttemptFailed as error:
            failure = error
        except BaseException:  # cancelled, or a bug of ours
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

    async def _send_adapting(
        self, call: ForwardRequest, replica: Replica, attempt: PendingAttempt, record: RequestRecord
    ) -> _Result:
        operation, defaults = call.operation, call.resolution.defaults
        step = await offload(call.size, operation.prepare, call.request, replica.model, defaults)
        refusals: list[Refused | Faulty] = []
        while True:
            try:
                return await self._exchange(call, replica, step, attempt, record)
            except (Refused, Faulty) as refused:
                repeated = any(refused.text == earlier.text for earlier in refusals)
                refusals.append(refused)
            adapted = None
            if operation.adapt is not None and not repeated and len(refusals) <= MAX_ADAPTATIONS:
                adapted = await offload(call.size, operation.adapt, call.request, replica.model, defaults, *refusals)
            if adapted is None:
                raise refusals[0]
            step = adapted

    async def _exchange(
        self, call: ForwardRequest, replica: Replica, step: NextStep, attempt: PendingAttempt, record: RequestRecord
    ) -> _Result:
        """Run the preflight, send the request, and read until the client's response may begin."""
        if not isinstance(step, UpstreamRequest):
            send = partial(self._send, call, replica)
            step = await run_preflight(step, send, attempt.record_progress, call.size)
            if isinstance(step, DirectResponse):
                return step
        timing = Timing(call.arrived, self._clock.monotonic_ns())
        translator = (step.translator or call.operation.translator)(call.request, timing, self._clock)
        response = await self._send(call, replica, step.path, step.body)
        try:
            if response.status != 200:
                raise await read_failure(response)
            first_bytes = await read_first_content(response, translator, attempt.record_content)
        except BaseException:
            response.close()
            record.discarded_tokens += translator.usage.completion_tokens
            raise
        return WorkerResponse(attempt.lease, response, translator, first_bytes)

    async def _send(self, call: ForwardRequest, replica: Replica, path: str, body: bytes) -> Response:
        return await self._client.send(
            replica.worker.endpoint,
            "POST",
            path,
            headers=_headers(call.request_id),
            body=body,
            connect_timeout=self._limits.connect_timeout,
        )

    def _now(self) -> float:
        return self._clock.monotonic_ns() / 1e9


def _log_choice(call: ForwardRequest, replica: Replica | None, tried: list[str], now: float) -> None:
    others = call.resolution.rejections(tried, now, replica)
    reasons = ", ".join(f"{worker}: {reason}" for worker, reason in others.items()) or "none"
    chosen = replica.worker.id if replica else "no worker"
    _log.debug("request %s: chose %s for %s; others: %s", call.request_id, chosen, call.resolution.model, reasons)


def _headers(request_id: str) -> Mapping[str, str]:
    return {"content-type": "application/json", "accept": "text/event-stream", "x-request-id": request_id}
