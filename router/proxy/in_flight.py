"""One request from its admission to the end of the client's response."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from vllama_pool.router.admission.admission import Admission
from vllama_pool.router.admission.tenant import Tenant, anonymous
from vllama_pool.router.balance.demand import PLAIN, Demand
from vllama_pool.router.balance.retry import MAX_ATTEMPTS as MOST_ATTEMPTS
from vllama_pool.router.balance.retry import Attempts, GiveUp, Retry, decide, most_specific
from vllama_pool.router.balance.worker import Replica
from vllama_pool.router.errors import AttemptFailed, ClientError, ContextTooLong, ModelGone, ServerBusy
from vllama_pool.router.protocol.operation import DirectResponse
from vllama_pool.router.proxy import context_fit
from vllama_pool.router.proxy.attempt import Attempt, ForwardRequest, Upstream
from vllama_pool.router.proxy.client_writer import ClientWriter
from vllama_pool.router.proxy.fallback import MAX_ATTEMPTS, Fallbacks, reason_of, spoils_worker
from vllama_pool.router.proxy.places import Places
from vllama_pool.router.proxy.seat import Seat, Terms
from vllama_pool.router.proxy.worker_errors import client_error, transport_failure
from vllama_pool.router.routing.resolution import Reason, Resolution
from vllama_pool.router.telemetry.decisions import Choice, choice_of
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
    """Owns a request's seat at its model, and its present attempt.

    `close` releases each once. Nothing is retried once the client has a byte.
    """

    __slots__ = (
        *("_attempt", "_caps", "_context", "_failures", "_fallbacks", "_seat", "_seeks_room", "_shared", "_spoiled"),
        *("_task", "_tried"),
        *("call", "client", "client_left", "on_answer", "on_send", "record", "waiting"),
    )

    def __init__(
        self,
        shared: Shared,
        call: ForwardRequest,
        record: RequestRecord,
        client: ClientWriter,
        terms_of: Callable[[Resolution], Terms],
        on_answer: Callable[[], None],
    ) -> None:
        """`on_answer` is called before a response that is not streamed is written."""
        self._shared = shared
        self._seat = Seat(terms_of)
        self._caps: Places | None = None
        """Places in `call.caps`."""
        self._task = asyncio.current_task()
        self._attempt: Attempt | None = None
        self._tried: list[str] = []
        """Workers that get no further attempt."""
        self._failures: list[AttemptFailed] = []
        """Of the present model."""
        self._spoiled: tuple[str, ...] = ()
        """Workers that get no attempt for other models either."""
        self._context = 0
        """One in tokens that was too small."""
        self._seeks_room = False
        """The present attempt fails because a larger context may do."""
        self._fallbacks: Fallbacks | None = None
        """Once a model has failed."""
        self.call = call
        self.record = record
        self.client = client
        self.on_answer = on_answer
        self.on_send: Callable[[], None] | None = None
        """Called once, before the first attempt."""
        self.waiting = True
        """The client's response has not begun."""
        self.client_left = False

    def close(self) -> None:
        """Release everything. Idempotent."""
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.close()
        self._seat.leave()
        if self._caps is not None:
            self._caps.end()
        self.waiting = False

    async def run(self) -> DirectResponse | None:
        """Send the request to a worker, and to another one after a failure, until the client has its response. If its
        model cannot answer, a fallback takes over.

        Returns a response that the preflight sufficed for, unsent. Raises NoWorker, ServerBusy, the most specific
        failure as ClientError, and ClientGone.
        """
        try:
            if self.call.caps:
                await self._take_caps()
            try:
                queue = self._seat.enter(self.call.resolution)
                if queue is not None:
                    await self._wait(self._seat.wait_in(queue, self._tenant()))
            except ServerBusy as busy:
                if not await self._fall_back(busy, "overloaded"):
                    raise self._take_error() from None
            while True:
                replica = self._choose()
                if replica is None:
                    if not await self._fall_back_without_worker():
                        raise self._take_error()
                    continue
                self._tried.append(replica.worker.id)
                attempt = self._attempt = Attempt(self, replica, self._shared.upstream)
                if self.on_send is not None:
                    on_send, self.on_send = self.on_send, None
                    on_send()
                try:
                    return await attempt.run()
                except TransportError as error:
                    failure: AttemptFailed = transport_failure(error)
                except AttemptFailed as error:
                    failure = error.with_traceback(None)  # its frames hold the request, and refer to the failure
                attempt.fail(failure)
                self._record_failure(replica, failure)
                delay = await self._next_step(failure)
                if delay is None:
                    raise self._take_error()
                if delay:
                    await asyncio.sleep(delay)
        except asyncio.CancelledError:
            if self.client_left and self.waiting and self._task is not None and self._task.uncancel() == 0:
                raise ClientGone from None
            raise

    def client_gone(self) -> None:
        """The client disconnected. Called by the server."""
        self.client_left = True
        if self._attempt is not None:
            self._attempt.client_gone()
        if self.waiting:
            self._seat.stop_waiting()
            if self._caps is not None:
                self._caps.stop_waiting()
            if self._task is not None:
                self._task.cancel()

    def begin_response(self) -> None:
        """The present attempt's answer is the client's response. Idempotent."""
        if not self.waiting:
            return
        self.waiting = False
        self._seat.stop_waiting()
        self.call.request = self.call.asker = None
        shared, record = self._shared, self.record
        record.status = 200
        record.first_ms = (shared.upstream.clock.monotonic_ns() - self.call.arrived) // 1000 / 1000
        if self._attempt is not None:
            self._attempt.lease.record_first_content()
        if shared.debug:
            _log.debug("request %s: %s answers", record.id, record.worker)

    def has_larger(self, replica: Replica) -> bool:
        """True if a larger context than that of the replica, or of the entry, may answer."""
        context, limit = replica.model.context_length, self.call.defaults.context
        fallbacks = self._fallbacks or Fallbacks(self.call, self.record)
        if limit is not None and not 0 < context <= limit:
            return fallbacks.has_room(limit)
        return self._has_room(context) or fallbacks.has_room(context)

    def moves_for(self, refusal: ContextTooLong, replica: Replica) -> bool:
        """True if the request goes to a larger context after this refusal: the attempt then fails with it."""
        context = context_fit.exceeded(refusal, replica)
        fallbacks = self._fallbacks or Fallbacks(self.call, self.record)
        if refusal.everywhere:
            moves = fallbacks.has_room(context)
        elif refusal.prompt_fits:  # a shorter answer is better than another model
            moves = self._has_room(context)
        else:
            # A model that was asked before may have room: its error is better than a shorter prompt.
            moves = fallbacks.context > context or self._has_room(context) or fallbacks.has_room(context)
        if moves:
            self._seeks_room = True
            self._context = max(self._context, context)
        return moves

    # internal

    async def _take_caps(self) -> None:
        """Raises ServerBusy."""
        self._caps = Places()
        for cap in self.call.caps:
            await self._wait(self._caps.take(cap))

    async def _wait(self, turn: Coroutine[Any, Any, None]) -> None:
        """Note the time in the queue. Raises ServerBusy."""
        clock, record = self._shared.upstream.clock, self.record
        entered = clock.monotonic_ns()
        try:
            await turn
        finally:
            record.queue_ms += (clock.monotonic_ns() - entered) // 1000 / 1000

    def _tenant(self) -> Tenant:
        return self.call.tenant or anonymous(self.record.address)

    def _now(self) -> float:
        return self._shared.upstream.clock.monotonic_ns() / 1e9

    def _choose(self) -> Replica | None:
        shared, resolution = self._shared, self.call.resolution
        tried = self._excluded() if self._context else self._tried
        now = shared.upstream.clock.monotonic_ns() / 1e9
        demand = self.call.demand if resolution.needs_demand else PLAIN
        replica = resolution.choose(tried, now, shared.rng, demand)
        if replica is not None:
            worker, decision = replica.worker, self.call.decision
            choice = choice_of(worker, resolution.groups, now) if resolution.has_choice else Choice(worker.id)
            decision.choices += (choice,)
        if shared.debug:
            _log_choice(self.record.id, resolution, replica, tried, now, demand)
        return replica

    def _excluded(self) -> list[str]:
        """Return the workers that get no further attempt."""
        if not self._context:
            return self._tried
        return [*self._tried, *context_fit.too_small(self.call.resolution, self._context)]

    def _record_failure(self, replica: Replica, failure: AttemptFailed) -> None:
        # Without the text: vLLM's errors may quote the prompt.
        name = type(failure).__name__
        _log.debug("request %s: %s failed: %s %d", self.record.id, replica.worker.id, name, failure.status)
        self.record.failures.append(name)
        if spoils_worker(failure):
            self._spoiled += (replica.worker.id,)

    async def _next_step(self, failure: AttemptFailed) -> float | None:
        """Return the seconds until the next attempt, perhaps of another model; None if there is none."""
        if self._seeks_room:
            self._seeks_room = False
            everywhere = isinstance(failure, ContextTooLong) and failure.everywhere
            if not everywhere and self._has_room(self._context):
                return 0.0
            return 0.0 if await self._fall_back(client_error(failure), "context") else None
        self._failures.append(failure)
        decision = self._decide()
        if isinstance(decision, Retry):
            return decision.delay
        failure = decision.failure
        return 0.0 if await self._fall_back(client_error(failure), reason_of(failure)) else None

    def _decide(self) -> Retry | GiveUp:
        shared, budget, failures = self._shared, self._seat.budget, self._failures
        if isinstance(failures[-1], ModelGone):
            shared.refresh()
        resolution = self.call.resolution
        untried = resolution.count_untried(self._excluded(), self._now())
        retries = None if resolution.rule is None else resolution.rule.entry.retries
        attempts = MOST_ATTEMPTS if retries is None else retries.attempts
        limit = min(attempts, len(failures) + MAX_ATTEMPTS - self.record.attempts)
        decision = decide(Attempts(tuple(failures), untried, budget.available, limit), shared.rng)
        if isinstance(decision, Retry) and decision.budgeted:
            budget.try_spend()
        return decision

    def _has_room(self, context: int) -> bool:
        """True if a healthy worker of the model has a context of more tokens."""
        if self.record.attempts >= MAX_ATTEMPTS:
            return False
        return context_fit.has_room(self.call.resolution, context, self._tried, self._now())

    async def _fall_back_without_worker(self) -> bool:
        """No worker of the model is left."""
        if not self._failures:
            return await self._fall_back(self.call.resolution.no_worker(), "no_worker")
        failure = most_specific(self._failures)
        return await self._fall_back(client_error(failure), reason_of(failure))

    async def _fall_back(self, error: ClientError, reason: Reason | None) -> bool:
        """Give the request to another model. Return False if there is none, and keep the client's error.

        `reason`: None if the request is at fault.
        """
        fallbacks = self._fallbacks
        if fallbacks is None:
            fallbacks = self._fallbacks = Fallbacks(self.call, self.record)
        self._seat.leave()
        while fallbacks.move(error, reason, self._context):
            self._tried, self._failures = list(self._spoiled), []
            try:
                queue = self._seat.enter(self.call.resolution)
                if queue is not None:
                    await self._wait(self._seat.wait_in(queue, self._tenant()))
            except ServerBusy as busy:
                error, reason = busy, "overloaded"
                self._seat.leave()
            else:
                return True
        return False

    def _take_error(self) -> ClientError:
        """Return the client's error, and forget it: its traceback refers to the request."""
        fallbacks, self._fallbacks = self._fallbacks, None
        assert fallbacks is not None  # from `_fall_back`
        assert fallbacks.error is not None
        return fallbacks.error


def _log_choice(
    request_id: str, resolution: Resolution, replica: Replica | None, tried: list[str], now: float, demand: Demand
) -> None:
    others = resolution.rejections(tried, now, replica, demand)
    reasons = ", ".join(f"{worker}: {reason}" for worker, reason in others.items()) or "none"
    chosen = replica.worker.id if replica else "no worker"
    _log.debug("request %s: chose %s for %s; others: %s", request_id, chosen, resolution.model, reasons)
