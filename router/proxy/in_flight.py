"""One request from its admission to the end of the client's response."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from vllama_pool.router.admission.queue import AdmissionQueue
from vllama_pool.router.admission.tenant import Tenant, anonymous
from vllama_pool.router.balance.retry import MAX_DELAY, MIN_DELAY, Retry, most_specific
from vllama_pool.router.balance.worker import Replica
from vllama_pool.router.errors import (
    AttemptFailed,
    Busy,
    ClientError,
    ContextTooLong,
    Lost,
    ModelGone,
    OutOfTime,
    ServerBusy,
)
from vllama_pool.router.poison.guard import PoisonGuard
from vllama_pool.router.poison.trials import Trial
from vllama_pool.router.protocol.operation import DirectResponse
from vllama_pool.router.proxy.attempt import Attempt
from vllama_pool.router.proxy.client_writer import ClientWriter
from vllama_pool.router.proxy.collaborators import Shared
from vllama_pool.router.proxy.fallback import reason_of
from vllama_pool.router.proxy.forward_request import ForwardRequest
from vllama_pool.router.proxy.interrupted import Interrupted
from vllama_pool.router.proxy.places import Places
from vllama_pool.router.proxy.recovery import Recovery
from vllama_pool.router.proxy.relay import Ending
from vllama_pool.router.proxy.resume import resume
from vllama_pool.router.proxy.resumption import Resumption, note_loss
from vllama_pool.router.proxy.seat import Seat, Terms
from vllama_pool.router.proxy.waiting_request import WaitingRequest
from vllama_pool.router.proxy.worker_choice import choose_worker, note_choice, pick
from vllama_pool.router.proxy.worker_errors import client_error, transport_failure
from vllama_pool.router.routing.resolution import Reason, Resolution
from vllama_pool.router.telemetry.request_record import RequestRecord
from vllama_pool.router.upstream.interface import TransportError

_log = logging.getLogger(__name__)


SMALL_REQUEST = 1 << 14
"""Bytes of a body up to which its request is kept while it is answered, in case that its engine crashes. Larger ones
are kept within the poison guard's limit."""
_LOST = str(Ending.LOST)


class ClientGone(Exception):
    """The client disconnected before its response began."""


class InFlight:
    """Owns a request's seat at its model, and its present attempt.

    `close` releases each once. Once the client has a byte, an answer is continued, and never begun again.
    """

    __slots__ = (
        *(
            "_attempt",
            "_caps",
            "_expired",
            "_interrupted",
            "_kept",
            "_recovery",
            "_seat",
            "_shared",
            "_task",
            "_total",
            "_trial",
        ),
        *("call", "client", "client_left", "on_answer", "on_send", "record", "waiting"),
    )

    def __init__(
        self,
        shared: Shared,
        terms_of: Callable[[Resolution], Terms],
        call: ForwardRequest,
        record: RequestRecord,
        client: ClientWriter,
        on_answer: Callable[[], None],
    ) -> None:
        """`on_answer` is called before a response that is not streamed is written."""
        self._shared = shared
        self._seat = Seat(terms_of)
        self._caps: Places | None = None
        """Places in the limits of the API key."""
        self._attempt: Attempt | None = None
        self._task = asyncio.current_task()
        self._interrupted: Interrupted | None = None
        """The answer that another worker continues."""
        self._recovery: Recovery | None = None
        """Once something has failed."""
        self._trial: Trial | None = None
        """The request was in progress on an engine that crashed, and no other one has answered it yet."""
        self._total = math.inf
        """Seconds for the whole request."""
        self._expired = False
        self._kept = 0
        """Bytes of the body, if they count for the guard's limit."""
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
            poison = self._shared.poison
            if poison is not None and (poison.suspects_begun or self.record.outcome == _LOST):
                self._tell_guard(poison, attempt)
        if self._kept:
            self._forget_request()
        if self._trial is not None:
            self._trial.end()
        self._seat.leave(served=attempt is not None)
        if self._caps is not None:
            self._caps.end()
        if self._total != math.inf:
            self._shared.upstream.deadlines.unwatch(self)
        self.waiting = False

    async def run(self) -> DirectResponse | None:
        """Send the request to a worker, and to another one after a failure, until the client has its response. If its
        model cannot answer, a fallback takes over.

        Returns a response that the preflight sufficed for, unsent. Raises NoWorker, ServerBusy, the most specific
        failure as ClientError, Poison, and ClientGone.
        """
        shared = self._shared
        poison, rule, timeouts = shared.poison, self.call.resolution.rule, shared.upstream.timeouts
        own = None if rule is None else rule.entry.timeouts
        self._total = timeouts.settings.total if own is None else timeouts.of(own).total
        if self._total != math.inf:
            shared.upstream.deadlines.watch(self)
        try:
            if poison is not None and poison.refused:
                await poison.check(self.call.operation.name, self.call.request, self.call.decision.size)
            if self.call.grant.caps:
                await self._take_caps()
            queue = self._seat.enter(self.call.resolution).queue
            if queue is not None:
                await self._take_place(queue)
            while True:
                replica = choose_worker(shared, self.call, self._seat.workers, self._recovery)
                if replica is not None:
                    attempt = Attempt(self, replica, shared.upstream)
                else:
                    later = await self._later()
                    if later is None:
                        continue
                    if isinstance(later, DirectResponse):
                        return later
                    attempt = later
                self._attempt = attempt
                if self._total != math.inf and self._now() >= self.deadline:
                    raise self._out_of_time()
                if self._recovery is not None and self._recovery.suspect and not await self._begin_trial(attempt):
                    continue
                if self.on_send is not None:
                    on_send, self.on_send = self.on_send, None
                    on_send()
                try:
                    return await attempt.run()
                except Interrupted as interrupted:
                    await self._resume(attempt, attempt.replica, interrupted)
                    return None
                except (TransportError, AttemptFailed) as error:
                    failure = transport_failure(error) if isinstance(error, TransportError) else error
                await self._recover_from(attempt, failure.with_traceback(None))  # frames hold the request
        except asyncio.CancelledError:
            if self._was_cancelled():
                return None
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
        elif self._interrupted is not None and self._task is not None:
            self._task.cancel()

    # for the deadlines

    @property
    def deadline(self) -> float:
        """Monotonic seconds."""
        return self.call.decision.arrived / 1e9 + self._total

    def expire(self) -> None:
        """The request's whole time is over. Idempotent."""
        if self._expired:
            return
        self._expired = True
        if self._attempt is not None and self._attempt.expire(self._out_of_time().text):
            return
        if self.waiting:
            self._seat.stop_waiting()
            if self._caps is not None:
                self._caps.stop_waiting()
        unfinished = self.waiting or (self._interrupted is not None and not self._interrupted.ended)
        if unfinished and self._task is not None:
            self._task.cancel()

    def begin_response(self) -> None:
        """The present attempt's answer is the client's response. Idempotent."""
        if not self.waiting:
            return
        self.waiting = False
        self.call.asker = None
        shared, record = self._shared, self.record
        if shared.poison is None or self.call.decision.size > SMALL_REQUEST:
            self._keep_request()
        record.status = 200
        record.first_ms = (shared.upstream.clock.monotonic_ns() - self.call.decision.arrived) // 1000 / 1000
        if self._attempt is not None:
            self._attempt.lease.record_first_content()
        if shared.debug:
            _log.debug("request %s: %s answers", record.id, record.worker)

    def owns(self, attempt: object) -> bool:
        return self._attempt is attempt and (self._task is None or not self._task.done())

    def has_larger(self, replica: Replica) -> bool:
        """True if a larger context than that of the replica, or of the entry, may answer."""
        return self._recover().has_larger(replica, self._now())

    def moves_for(self, refusal: ContextTooLong, replica: Replica) -> bool:
        """True if the request goes to a larger context after this refusal: the attempt then fails with it."""
        return self._recover().moves_for(refusal, replica, self._now())

    # internal

    def _keep_request(self) -> None:
        """Keep the request until its answer ends, unless too many bytes are kept."""
        poison, size = self._shared.poison, self.call.decision.size
        if poison is not None and poison.kept.take(size):
            self._kept = size
        else:
            self.call.request = None

    def _forget_request(self) -> None:
        kept, self._kept = self._kept, 0
        if self._shared.poison is not None:
            self._shared.poison.kept.give_back(kept)

    def _tell_guard(self, poison: PoisonGuard, attempt: Attempt) -> None:
        """Tell how an answer ended that may have crashed its engine."""
        call, request, outcome = self.call, self.call.request, self.record.outcome
        if request is not None and outcome in (Ending.COMPLETE, Ending.WHOLE):
            if self.record.resumed:  # another engine got the tokens, not the request
                return
            poison.completed(call.operation.name, request, call.decision.size)
        elif request is not None and outcome == _LOST and self._interrupted is None:
            poison.lost_begun(
                attempt.replica.worker, attempt.lease.sent, call.operation.name, request, call.decision.size
            )

    async def _resume(self, attempt: Attempt, replica: Replica, interrupted: Interrupted) -> None:
        attempt.fail(interrupted.cause)
        recovery = self._recover()
        note_loss(self._shared, self.call, recovery, attempt, interrupted.cause)
        if self.client_left:
            self.record.outcome = str(Ending.CLIENT_GONE)
            return
        self._interrupted = interrupted
        owner = Resumption(self._shared, self.call, recovery, self._seat.budget, self._begin)
        try:
            await resume(owner, interrupted, replica, self.call.resolution)
        except asyncio.CancelledError:
            if not self._expired or self.client_left or self._task is None or self._task.uncancel() > 0:
                raise
            interrupted.text = self._out_of_time().text
            await interrupted.fail()
            self.record.outcome = str(Ending.OUT_OF_TIME)

    async def _recover_from(self, attempt: Attempt, failure: AttemptFailed) -> None:
        """Wait until the request's next attempt is due. Raises the client's error if there is none, and Poison."""
        poison = self._shared.poison
        attempt.fail(failure)
        self._recover().note(attempt.replica, failure)
        if isinstance(failure, Lost) and failure.in_progress and poison is not None:
            await self._look_for_crash(poison, attempt.replica, attempt.lease.sent)
        if self._trial is not None:
            self._end_trial()
        delay = await self._next_step(failure)
        if delay is None:
            raise self._take_error()
        if delay:
            await asyncio.sleep(delay)

    def _was_cancelled(self) -> bool:
        """Of a cancelled task: return True if its client left an answer that was being continued, and False if others
        cancelled it. Raises OutOfTime, or ClientGone, if the response has not begun."""
        task = self._task
        if task is None:
            return False
        if self._expired and self.waiting and task.uncancel() == 0:
            raise self._out_of_time() from None
        if not self.client_left:
            return False
        if self.waiting and task.uncancel() == 0:
            raise ClientGone from None
        if self._interrupted is not None and task.uncancel() == 0:
            self.record.outcome = str(Ending.CLIENT_GONE)
            return True
        return False

    async def _take_place(self, queue: AdmissionQueue) -> None:
        """Wait for one of the model's places, or of a fallback's. Raises the client's error."""
        try:
            await self._wait(self._seat.wait_in(queue, self._tenant()))
        except ServerBusy as busy:
            if not await self._fall_back(busy, "overloaded"):
                raise self._take_error() from None

    async def _take_caps(self) -> None:
        """Raises ServerBusy."""
        self._caps = Places()
        for cap in self.call.grant.caps:
            await self._wait(self._caps.take(cap))

    async def _wait(self, turn: Coroutine[Any, Any, None]) -> None:
        """Note the time in the queue. Raises ServerBusy."""
        clock, record = self._shared.upstream.clock, self.record
        entered = clock.monotonic_ns()
        try:
            await turn
        finally:
            record.queue_ms += (clock.monotonic_ns() - entered) // 1000 / 1000

    def _out_of_time(self) -> OutOfTime:
        return OutOfTime(f"the request was not complete within {self._total:g} s")

    def _tenant(self) -> Tenant:
        return self.call.grant.tenant or anonymous(self.record.address)

    def _now(self) -> float:
        return self._shared.upstream.clock.monotonic_ns() / 1e9

    def _recover(self) -> Recovery:
        recovery = self._recovery
        if recovery is None:
            recovery = self._recovery = Recovery(self.call, self.record)
        return recovery

    async def _look_for_crash(self, poison: PoisonGuard, replica: Replica, sent: float) -> None:
        """The connection was lost: did the engine die by itself? Raises Poison if that is the second one."""
        call, recovery = self.call, self._recover()
        name, size = call.operation.name, call.decision.size
        crash = await poison.met_crash(replica.worker, sent, name, call.request, size, recovery.crashes)
        if crash is not None:
            recovery.explained = bool(recovery.crashes)
            recovery.crashes.append(crash)
            recovery.suspect = True

    async def _begin_trial(self, attempt: Attempt) -> bool:
        """Wait until the worker has no other request of a crash. Return False if another worker must be chosen."""
        poison, call = self._shared.poison, self.call
        assert poison is not None  # it has found the crash
        name, size = call.operation.name, call.decision.size
        acquitted = self._recover().acquit
        self._trial = trial = await poison.begin_trial(attempt.replica.worker, name, call.request, size, acquitted)
        if trial is None:
            attempt.close()
            self._attempt = None
            return False
        trial.begun = self._answer_begun
        return True

    def _answer_begun(self) -> bool:
        return self._attempt is not None and (not self.waiting or self._attempt.begun)

    def _end_trial(self) -> None:
        trial, self._trial = self._trial, None
        if trial is not None:
            trial.end()

    async def _later(self) -> Attempt | DirectResponse | None:
        """Wait for a worker with room, and begin an attempt on it. Return None if a fallback takes over, and the answer
        of a request that needs no worker.

        Raises ClientError if no worker is left, and no fallback.
        """
        self._attempt = None
        if self._recovery is None or not self._recovery.failures or self._recovery.returned:
            request = WaitingRequest(self._shared, self.call, self._excluded, self._take)
            if request.may_wait():
                waited = self.record.queue_ms / 1000
                try:
                    await self._wait(self._seat.wait_for_worker(request, self._tenant(), waited))
                except ServerBusy as busy:
                    absent, resolution = request.turn.absent, self.call.resolution
                    error = resolution.no_worker() if absent and not resolution.starts_from_zero else busy
                    if not await self._fall_back(error, "no_worker" if absent else "overloaded"):
                        raise self._take_error() from None
                    return None
                if request.refusal is not None:
                    raise request.refusal
                if request.answer is not None:
                    return request.answer
        if self._attempt is None:
            replica = pick(self._shared, self.call, self._recovery)  # a last resort
            if replica is not None:
                self._take(replica)
            elif not await self._fall_back_without_worker():
                raise self._take_error()
        return self._attempt

    def _take(self, replica: Replica) -> None:
        """Begin an attempt."""
        note_choice(self._shared, self.call, self._recovery, replica.worker)
        self._begin(replica)

    def _begin(self, replica: Replica) -> Attempt:
        attempt = self._attempt = Attempt(self, replica, self._shared.upstream)
        return attempt

    def _excluded(self) -> Collection[str]:
        return self._recovery.excluded() if self._recovery is not None else ()

    async def _next_step(self, failure: AttemptFailed) -> float | None:
        """Return the seconds until the next attempt, perhaps of another model; None if there is none."""
        recovery, now = self._recover(), self._now()
        if recovery.seeks_room:
            recovery.seeks_room = False
            everywhere = isinstance(failure, ContextTooLong) and failure.everywhere
            if not everywhere and recovery.has_room(recovery.context, now):
                return 0.0
            return 0.0 if await self._fall_back(client_error(failure), "context") else None
        if isinstance(failure, ModelGone):
            self._shared.refresh()
        recovery.failures.append(failure)
        decision = recovery.decide(self._seat.budget, now, self._shared.rng)
        if isinstance(decision, Retry):
            return decision.delay
        if recovery.try_return(self._seat.budget, now):
            return self._shared.rng.uniform(MIN_DELAY, MAX_DELAY) if isinstance(failure, Busy) else 0.0
        failure = decision.failure
        return 0.0 if await self._fall_back(client_error(failure), reason_of(failure)) else None

    async def _fall_back_without_worker(self) -> bool:
        """No worker of the model is left."""
        failures = self._recover().failures
        if not failures:
            return await self._fall_back(self.call.resolution.no_worker(), "no_worker")
        failure = most_specific(failures)
        return await self._fall_back(client_error(failure), reason_of(failure))

    async def _fall_back(self, error: ClientError, reason: Reason | None) -> bool:
        """Give the request to another model. Return False if there is none, and keep the client's error.

        `reason`: None if the request is at fault.
        """
        recovery = self._recover()
        self._seat.leave()
        while recovery.fallbacks.move(error, reason, recovery.context):
            recovery.begin_model()
            try:
                queue = self._seat.enter(self.call.resolution).queue
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
        recovery, self._recovery = self._recovery, None
        assert recovery is not None  # from `_fall_back`
        assert recovery.fallbacks.error is not None
        return recovery.fallbacks.error
