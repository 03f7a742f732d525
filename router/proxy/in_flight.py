"""One request from its admission to the end of the client's response."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllama_pool.router.admission.bound import Admission
from vllama_pool.router.balance.budget import RetryBudget
from vllama_pool.router.balance.lease import Abandoned, Completed, Errored, Lease, Outcome
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.balance.retry import Attempts, GiveUp, Retry, decide, most_specific
from vllama_pool.router.balance.worker import Replica
from vllama_pool.router.errors import AttemptFailed, Faulty, Lost, ModelGone, Refused
from vllama_pool.router.offload import offload
from vllama_pool.router.protocol.operation import (
    Clock,
    DirectResponse,
    NextStep,
    Operation,
    StreamTranslator,
    Timing,
    UpstreamRequest,
    Usage,
)
from vllama_pool.router.protocol.vllm.errors import classify_stream_failure
from vllama_pool.router.proxy.client_writer import ClientWriter
from vllama_pool.router.proxy.preflight import Answer, Collector, run_preflight
from vllama_pool.router.proxy.relay import Ending, Relay, incomplete
from vllama_pool.router.proxy.stalls import StallWatch
from vllama_pool.router.proxy.worker_errors import client_error, transport_failure
from vllama_pool.router.routing.resolve import Resolution
from vllama_pool.router.telemetry.request_record import RequestRecord
from vllama_pool.router.upstream.interface import Client, Exchange, ResponseTimeout, Sink, TransportError

MAX_ADAPTATIONS = 5
"""Adapted requests per attempt: fewer stop strings, fewer tokens, a shorter prompt, joined messages, a closed turn."""

HEADERS = (("content-type", "application/json"), ("accept", "text/event-stream"))

MAX_INLINE_FINISH = 64 * 1024
"""Bytes of a response whose `finish` runs in the event loop, in some milliseconds."""

_log = logging.getLogger(__name__)


class ClientGone(Exception):
    """The client disconnected before its response began."""


@dataclass(frozen=True, slots=True)
class Shared:
    """The collaborators that all requests of a process share."""

    client: Client
    pool: Pool
    stalls: StallWatch
    clock: Clock
    rng: random.Random
    admission: Admission
    connect_timeout: float
    """Seconds."""
    client_stall: float
    """Seconds until a client that reads nothing is dropped."""
    refresh: Callable[[], None]
    """Called when a worker answers 404 for a model in its record, which is then stale."""


@dataclass(frozen=True, slots=True)
class ForwardRequest:
    """A decoded request whose model is resolved."""

    operation: Operation[Any]
    request: Any
    resolution: Resolution
    arrived: int
    """Monotonic nanoseconds at which the request was complete."""
    size: int
    """Bytes of the body."""


class InFlight:
    """Owns all that a request holds: its place among the waiting, its budget share, lease and exchange.

    `close` releases each once. Nothing is retried once the client has a byte.
    """

    __slots__ = (
        *("_budget", "_call", "_client", "_exchange", "_lease", "_on_answer", "_outcome", "_record", "_relay"),
        *("_shared", "_task", "_waiting", "client_left"),
    )

    def __init__(
        self,
        shared: Shared,
        call: ForwardRequest,
        record: RequestRecord,
        client: ClientWriter,
        budget: RetryBudget,
        on_answer: Callable[[], None],
    ) -> None:
        """`on_answer` is called before a response that is not streamed is written."""
        self._shared = shared
        self._call = call
        self._record = record
        self._client = client
        self._budget: RetryBudget | None = budget
        """None once closed."""
        self._on_answer = on_answer
        self._waiting = True
        """It holds a place among the waiting requests."""
        self._task = asyncio.current_task()
        self.client_left = False
        self._relay: Relay | None = None
        self._exchange: Exchange | None = None
        self._lease: Lease | None = None
        self._outcome: Outcome = Abandoned()

    def close(self) -> None:
        """Release everything. Idempotent."""
        self._shared.stalls.unwatch(self)
        if self._waiting:
            self._stop_waiting()
        self._end_attempt(self._outcome)
        if self._budget is not None:
            self._budget.end_request()
            self._budget = None

    async def run(self) -> DirectResponse | None:
        """Send the request to a worker, and to another one after a failure, until the client has its response.

        Returns a response that the preflight sufficed for, unsent. Raises NoWorker, the most specific failure as
        ClientError, and ClientGone.
        """
        try:
            return await self._retry()
        except asyncio.CancelledError:
            if self.client_left and self._waiting and self._task is not None and self._task.uncancel() == 0:
                raise ClientGone from None
            raise

    def client_gone(self) -> None:
        """The client disconnected. Called by the server."""
        self.client_left = True
        if self._relay is not None:
            self._relay.client_gone()
        if self._waiting and self._task is not None:
            self._task.cancel()

    # for the stall watch

    @property
    def last_heard(self) -> float | None:
        """Time of the worker's latest bytes, on the loop's clock. None while nothing is expected of a worker."""
        exchange = self._exchange
        if exchange is None or (self._relay is not None and self._relay.waits_for_client):
            return None
        return exchange.last_heard

    @property
    def begun(self) -> bool:
        return self._relay is not None and self._relay.translator.begun

    @property
    def worker_unresponsive(self) -> bool:
        return self._lease is not None and self._lease.worker.unresponsive

    def abort(self, text: str) -> None:
        """End the present exchange as timed out."""
        if self._exchange is not None:
            self._exchange.fail(ResponseTimeout(text))

    # attempts

    async def _retry(self) -> DirectResponse | None:
        tried: list[str] = []
        failures: list[AttemptFailed] = []
        while True:
            replica = self._choose(tried)
            if replica is None:
                raise client_error(most_specific(failures)) if failures else self._call.resolution.no_worker()
            tried.append(replica.worker.id)
            try:
                return await self._attempt(replica)
            except TransportError as error:
                failure: AttemptFailed = transport_failure(error)
            except AttemptFailed as error:
                failure = error
            self._record_failure(replica, failure)
            failures.append(failure)
            decision = self._decide(tried, failures)
            if isinstance(decision, GiveUp):
                raise client_error(decision.failure) from None
            if decision.delay:
                await asyncio.sleep(decision.delay)

    def _choose(self, tried: list[str]) -> Replica | None:
        shared, resolution = self._shared, self._call.resolution
        now = shared.clock.monotonic_ns() / 1e9
        replica = resolution.choose(tried, now, shared.rng)
        if _log.isEnabledFor(logging.DEBUG):
            _log_choice(self._record.id, resolution, replica, tried, now)
        return replica

    def _decide(self, tried: list[str], failures: list[AttemptFailed]) -> Retry | GiveUp:
        shared, budget = self._shared, self._budget
        assert budget is not None
        if isinstance(failures[-1], ModelGone):
            shared.refresh()
        untried = self._call.resolution.count_untried(tried, shared.clock.monotonic_ns() / 1e9)
        decision = decide(Attempts(tuple(failures), untried, budget.available), shared.rng)
        if isinstance(decision, Retry) and decision.budgeted:
            budget.try_spend()
        return decision

    async def _attempt(self, replica: Replica) -> DirectResponse | None:
        """Try one worker. Raises AttemptFailed and TransportError."""
        record, call = self._record, self._call
        record.attempts += 1
        record.worker, record.served = replica.worker.id, replica.model.name
        self._lease = self._shared.pool.lease(replica.worker, replica.model.name)
        operation, defaults = call.operation, call.resolution.defaults
        step = await offload(call.size, operation.prepare, call.request, replica.model, defaults)
        refusals: list[Refused | Faulty] = []
        while True:
            try:
                return await self._send_step(step, replica)
            except (Refused, Faulty) as refused:
                repeated = any(refused.text == earlier.text for earlier in refusals)
                refusals.append(refused)
            adapted = None
            if operation.adapt is not None and not repeated and len(refusals) <= MAX_ADAPTATIONS:
                adapted = await offload(call.size, operation.adapt, call.request, replica.model, defaults, *refusals)
            if adapted is None:
                raise refusals[0]
            step = adapted

    async def _send_step(self, step: NextStep, replica: Replica) -> DirectResponse | None:
        """Run the preflight, send the request, and relay its response."""
        call = self._call
        if not isinstance(step, UpstreamRequest):
            step = await run_preflight(step, lambda path, body: self._ask(replica, path, body), call.size)
            if isinstance(step, DirectResponse):
                self._outcome = Completed(0)
                return step
        operation, request, clock = call.operation, call.request, self._shared.clock
        timing = Timing(call.arrived, clock.monotonic_ns())
        translator = (step.translator or operation.translator)(request, timing, clock)
        headers = ((b"content-type", operation.content_type(request).encode("latin-1")),)
        relay = self._relay = Relay(
            translator,
            self._client,
            headers,
            self._begin_response,
            stream=request.stream,
            client_stall=self._shared.client_stall,
        )
        try:
            relay.exchange = self._send(replica, step.path, step.body, relay)
            ending = await relay.ended
            if ending is Ending.WHOLE:
                ending = await self._respond_whole(relay, headers)
        except BaseException:
            if self._waiting:
                self._record.discarded_tokens += translator.usage.completion_tokens
            else:
                self._record_usage(translator.usage)
            self._end_exchange()
            raise
        self._record_ending(ending, translator)
        return None

    async def _ask(self, replica: Replica, path: str, body: bytes) -> Answer:
        collector = Collector()
        try:
            self._send(replica, path, body, collector)
            return await collector.answer
        finally:
            self._end_exchange()

    def _send(self, replica: Replica, path: str, body: bytes, sink: Sink) -> Exchange:
        shared = self._shared
        self._exchange = exchange = shared.client.send(
            replica.worker.endpoint,
            "POST",
            path,
            headers=HEADERS,
            request_id=self._record.id,
            body=body,
            sink=sink,
            connect_timeout=shared.connect_timeout,
        )
        return exchange

    async def _respond_whole(self, relay: Relay, headers: tuple[tuple[bytes, bytes], ...]) -> Ending:
        """Finish the answer and write it. Raises AttemptFailed if it is not whole."""
        translator = relay.translator
        # Finishing a large response takes long enough to stall other streams.
        inline = relay.size <= MAX_INLINE_FINISH
        body = translator.finish() if inline else await asyncio.to_thread(translator.finish)
        if translator.failure is not None:
            raise classify_stream_failure(translator.failure)
        if not translator.done:
            raise incomplete()
        self._begin_response()
        self._on_answer()
        self._client.start(200, (*headers, (b"content-length", str(len(body)).encode())))
        if self._client.write(body, last=True):
            return Ending.COMPLETE
        try:
            async with asyncio.timeout(self._shared.client_stall):
                await self._client.drained()
        except TimeoutError:
            return Ending.CLIENT_STALLED
        return Ending.CLIENT_GONE if self.client_left else Ending.COMPLETE

    def _begin_response(self) -> None:
        """This worker's answer is the client's response."""
        if not self._waiting:
            return
        self._stop_waiting()
        record = self._record
        record.status = 200
        record.first_ms = round((self._shared.clock.monotonic_ns() - self._call.arrived) / 1e6, 3)
        if self._lease is not None:
            self._lease.record_first_content()
        _log.debug("request %s: %s answers", record.id, record.worker)

    def _stop_waiting(self) -> None:
        self._waiting = False
        self._shared.admission.release()

    # endings

    def _record_ending(self, ending: Ending, translator: StreamTranslator) -> None:
        usage = translator.usage
        self._record.outcome = str(ending)
        self._record_usage(usage)
        match ending:
            case Ending.COMPLETE:
                self._outcome = Completed(usage.completion_tokens)
                if self._exchange is not None and not translator.cut_off:
                    self._exchange.finish()
                    self._exchange = None
            case Ending.LOST:
                self._outcome = Errored(Lost("lost in mid-stream"))
            case Ending.FAILED:
                failure = translator.failure
                self._outcome = Errored(classify_stream_failure(failure) if failure else Lost("failed in mid-stream"))

    def _record_usage(self, usage: Usage) -> None:
        record = self._record
        record.prompt_tokens, record.completion_tokens = usage.prompt_tokens, usage.completion_tokens
        record.done_reason = usage.done_reason

    def _record_failure(self, replica: Replica, failure: AttemptFailed) -> None:
        # Without the text: vLLM's errors may quote the prompt.
        name = type(failure).__name__
        _log.debug("request %s: %s failed: %s %d", self._record.id, replica.worker.id, name, failure.status)
        self._record.failures.append(name)
        self._end_attempt(Errored(failure))

    def _end_attempt(self, outcome: Outcome) -> None:
        self._end_exchange()
        if self._lease is not None:
            self._lease.release(outcome)
            self._lease = None

    def _end_exchange(self) -> None:
        if self._relay is not None:
            self._relay.stop()
            self._relay = None
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None


def _log_choice(request_id: str, resolution: Resolution, replica: Replica | None, tried: list[str], now: float) -> None:
    others = resolution.rejections(tried, now, replica)
    reasons = ", ".join(f"{worker}: {reason}" for worker, reason in others.items()) or "none"
    chosen = replica.worker.id if replica else "no worker"
    _log.debug("request %s: chose %s for %s; others: %s", request_id, chosen, resolution.model, reasons)
