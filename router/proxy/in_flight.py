"""One request from its admission to the end of the client's response."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from vllama_pool.router.balance.worker import Replica
from vllama_pool.router.errors import (
    STOPPING,
    AttemptFailed,
    ClientError,
    ContextTooLong,
    OutOfTime,
    ServerBusy,
    Stopping,
)
from vllama_pool.router.protocol.operation import DirectResponse
from vllama_pool.router.proxy.attempt import Attempt
from vllama_pool.router.proxy.client_writer import ClientWriter
from vllama_pool.router.proxy.collaborators import Shared
from vllama_pool.router.proxy.crashes import SMALL_REQUEST, keep_request, report_ending
from vllama_pool.router.proxy.failover import Failover
from vllama_pool.router.proxy.forward_request import ForwardRequest
from vllama_pool.router.proxy.interrupted import Interrupted
from vllama_pool.router.proxy.relay import Ending
from vllama_pool.router.proxy.resume import resume
from vllama_pool.router.proxy.resumption import Resumption, note_loss
from vllama_pool.router.proxy.seat import Seat, Terms
from vllama_pool.router.proxy.worker_choice import choose_worker
from vllama_pool.router.proxy.worker_errors import transport_failure
from vllama_pool.router.routing.resolution import Resolution
from vllama_pool.router.telemetry.request_record import RequestRecord
from vllama_pool.router.upstream.interface import TransportError

_log = logging.getLogger(__name__)
_LOST = str(Ending.LOST)


class ClientGone(Exception):
    """The client disconnected before its response began."""


class InFlight:
    """Owns a request's seat at its model, its present attempt, and its failover.

    `close` releases each once. Once the client has a byte, an answer is continued, and never begun again.
    """

    __slots__ = (
        *("_attempt", "_expired", "_failover", "_interrupted", "_kept", "_seat", "_shared", "_task", "_total"),
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
        self._attempt: Attempt | None = None
        self._task = asyncio.current_task()
        self._interrupted: Interrupted | None = None
        """The answer that another worker continues."""
        self._failover: Failover | None = None
        """Once it has to wait for a worker, or something has failed."""
        self._total = math.inf
        """Seconds for the whole request."""
        self._expired: ClientError | None = None
        """Of a request that has to end before it is complete."""
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
                report_ending(poison, self.call, attempt, interrupted=self._interrupted is not None)
        if self._kept:
            self._give_back_kept()
        if self._failover is not None:
            self._failover.close()
        self._seat.leave(served=attempt is not None)
        if self.call.grant.caps:
            self._seat.leave_caps()
        if self._total != math.inf:
            self._shared.upstream.deadlines.unwatch(self)
        self.waiting = False

    async def run(self) -> DirectResponse | None:
        """Send the request to a worker, and to another one after a failure, until the client has its response. If its
        model cannot answer, a fallback takes over.

        Returns a response that the preflight sufficed for, unsent. Raises NoWorker, ServerBusy, the most specific
        failure as ClientError, Poison, and ClientGone.
        """
        shared, call, seat = self._shared, self.call, self._seat
        poison, rule, timeouts = shared.poison, call.resolution.rule, shared.upstream.timeouts
        own = None if rule is None else rule.entry.timeouts
        self._total = timeouts.settings.total if own is None else timeouts.of(own).total
        limited = self._total != math.inf
        if limited:
            shared.upstream.deadlines.watch(self)
        try:
            if poison is not None and poison.refused:
                await poison.check(call.operation.name, call.request, call.decision.size)
            if call.grant.caps:
                await seat.take_caps(call, shared.upstream.clock)
            queue = seat.enter(call.resolution).queue
            if queue is not None:
                try:
                    await seat.wait_in(queue, call, shared.upstream.clock)
                except ServerBusy as busy:
                    await self._fail_over().after_busy(busy)
            while True:
                failover = self._failover
                recovery = None if failover is None else failover.recovery
                replica = choose_worker(shared, call, seat.workers, recovery)
                if replica is not None:
                    self._attempt = attempt = Attempt(self, replica, shared.upstream)
                else:
                    self._attempt = None
                    failover = self._fail_over()
                    found = await failover.find_worker(self._begin)
                    if found is None:  # a fallback takes over
                        continue
                    if isinstance(found, DirectResponse):
                        return found
                    attempt = found
                if limited and shared.upstream.clock.monotonic_ns() / 1e9 >= self.deadline:
                    raise self._out_of_time()
                if (
                    failover is not None
                    and failover.is_suspect
                    and not await failover.begin_trial(attempt, self._answer_begun)
                ):
                    self._attempt = None
                    continue
                if self.on_send is not None:
                    on_send, self.on_send = self.on_send, None
                    on_send()
                try:
                    return await attempt.run()
                except Interrupted as interrupted:
                    await self._resume(attempt, attempt.replica, interrupted.with_traceback(None))  # as below
                    return None
                except (TransportError, AttemptFailed) as error:
                    failure = transport_failure(error) if isinstance(error, TransportError) else error
                await self._fail_over().after(attempt, failure.with_traceback(None))  # frames hold the request
        except asyncio.CancelledError as cancelled:
            if self._was_stopped(cancelled) or self._was_cancelled():
                return None
            raise

    def client_gone(self) -> None:
        """The client disconnected. Called by the server."""
        self.client_left = True
        if self._attempt is not None:
            self._attempt.client_gone()
        if self.waiting:
            self._seat.stop_waiting()
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
        if self._expired is not None:
            return
        self._expired = self._out_of_time()
        if self._attempt is not None and self._attempt.expire(self._expired.text):
            return
        if self.waiting:
            self._seat.stop_waiting()
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
            self._kept = keep_request(shared.poison, self.call)
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
        return self._fail_over().has_larger(replica)

    def moves_for(self, refusal: ContextTooLong, replica: Replica) -> bool:
        """True if the request goes to a larger context after this refusal: the attempt then fails with it."""
        return self._fail_over().moves_for(refusal, replica)

    # internal

    def _give_back_kept(self) -> None:
        kept, self._kept = self._kept, 0
        if self._shared.poison is not None:
            self._shared.poison.kept.give_back(kept)

    def _fail_over(self) -> Failover:
        failover = self._failover
        if failover is None:
            failover = self._failover = Failover(self._shared, self.call, self._seat)
        return failover

    def _begin(self, replica: Replica) -> Attempt:
        attempt = self._attempt = Attempt(self, replica, self._shared.upstream)
        return attempt

    def _answer_begun(self) -> bool:
        return self._attempt is not None and (not self.waiting or self._attempt.begun)

    def _out_of_time(self) -> OutOfTime:
        return OutOfTime(f"the request was not complete within {self._total:g} s")

    async def _resume(self, attempt: Attempt, replica: Replica, interrupted: Interrupted) -> None:
        attempt.fail(interrupted.cause)
        recovery = self._fail_over().recover()
        note_loss(self._shared, self.call, recovery, attempt, interrupted.cause)
        if self.client_left:
            self.record.outcome = str(Ending.CLIENT_GONE)
            return
        self._interrupted = interrupted
        owner = Resumption(self._shared, self.call, recovery, self._seat.budget, self._begin)
        try:
            await resume(owner, interrupted, replica, self.call.resolution)
        except asyncio.CancelledError as cancelled:
            if cancelled.args == (STOPPING,):
                self._expired = Stopping()
            if self._expired is None or self.client_left or self._task is None or self._task.uncancel() > 0:
                raise
            interrupted.text = self._expired.text
            await interrupted.fail()
            self.record.outcome = str(Ending.OUT_OF_TIME)

    def _was_stopped(self, cancelled: asyncio.CancelledError) -> bool:
        """End a response that has begun with an error, and return True, if the server stops."""
        task, attempt = self._task, self._attempt
        if cancelled.args != (STOPPING,) or self.client_left or task is None:
            return False
        self._expired = Stopping()
        if attempt is None or not attempt.expire(self._expired.text):
            return False
        task.uncancel()
        self.record.outcome = str(Ending.OUT_OF_TIME)
        return True

    def _was_cancelled(self) -> bool:
        """Of a cancelled task: return True if its client left an answer that was being continued, and False if others
        cancelled it. Raises OutOfTime, Stopping or ClientGone if the response has not begun."""
        task = self._task
        if task is None:
            return False
        if self._expired is not None and self.waiting and task.uncancel() == 0:
            raise self._expired from None
        if not self.client_left:
            return False
        if self.waiting and task.uncancel() == 0:
            raise ClientGone from None
        if self._interrupted is not None and task.uncancel() == 0:
            self.record.outcome = str(Ending.CLIENT_GONE)
            return True
        return False
