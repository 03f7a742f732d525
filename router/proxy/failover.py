"""Takes a request to a worker that it waits for, and after a failure to another worker or model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from functools import partial

from vllama_pool.router.balance.retry import MAX_DELAY, MIN_DELAY, Retry, most_specific
from vllama_pool.router.balance.worker import Replica
from vllama_pool.router.errors import AttemptFailed, Busy, ClientError, ContextTooLong, Lost, ModelGone, ServerBusy
from vllama_pool.router.poison.trials import Trial
from vllama_pool.router.protocol.operation import DirectResponse
from vllama_pool.router.proxy.attempt import Attempt
from vllama_pool.router.proxy.collaborators import Shared
from vllama_pool.router.proxy.crashes import look_for_crash
from vllama_pool.router.proxy.fallback import reason_of
from vllama_pool.router.proxy.forward_request import ForwardRequest
from vllama_pool.router.proxy.recovery import Recovery
from vllama_pool.router.proxy.seat import Seat
from vllama_pool.router.proxy.waiting_request import WaitingRequest
from vllama_pool.router.proxy.worker_choice import note_choice, pick
from vllama_pool.router.proxy.worker_errors import client_error
from vllama_pool.router.routing.resolution import Reason

Begin = Callable[[Replica], Attempt]
"""Begins an attempt, which the caller owns."""


class Failover:
    """Made when a request finds no worker with room, or something fails: most requests need none.

    Owns the request's trial; `close` ends it.
    """

    __slots__ = ("_call", "_seat", "_shared", "_taken", "_trial", "recovery")

    def __init__(self, shared: Shared, call: ForwardRequest, seat: Seat) -> None:
        self._shared = shared
        self._call = call
        self._seat = seat
        self.recovery: Recovery | None = None
        """Once something has failed."""
        self._taken: Attempt | None = None
        """Begun by a request that has found its worker."""
        self._trial: Trial | None = None
        """The request was in progress on an engine that crashed, and no other one has answered it yet."""

    def __repr__(self) -> str:
        return f"<Failover of {self._call.decision.record.id}>"

    def close(self) -> None:
        """Idempotent."""
        trial, self._trial = self._trial, None
        if trial is not None:
            trial.end()

    def recover(self) -> Recovery:
        recovery = self.recovery
        if recovery is None:
            recovery = self.recovery = Recovery(self._call, self._call.decision.record)
        return recovery

    def has_larger(self, replica: Replica) -> bool:
        """True if a larger context than that of the replica, or of the entry, may answer."""
        return self.recover().has_larger(replica, self._now())

    def moves_for(self, refusal: ContextTooLong, replica: Replica) -> bool:
        """True if the request goes to a larger context after this refusal: the attempt then fails with it."""
        return self.recover().moves_for(refusal, replica, self._now())

    # waiting

    async def after_busy(self, busy: ServerBusy) -> None:
        """The model's queue has no place: wait for a fallback's. Raises the client's error."""
        if await self._fall_back(busy, "overloaded"):
            return
        del busy  # its traceback will refer to this frame
        raise self._take_error() from None

    async def find_worker(self, begin: Begin) -> Attempt | DirectResponse | None:
        """Wait for a worker with room, and begin an attempt on it. Return None if a fallback takes over, and the answer
        of a request that needs no worker.

        Raises ClientError if no worker is left, and no fallback.
        """
        self._taken, recovery = None, self.recovery
        if recovery is None or not recovery.failures or recovery.returned:
            request = WaitingRequest(self._shared, self._call, self._excluded, partial(self._take, begin))
            if request.may_wait():
                try:
                    await self._seat.wait_for_worker(request, self._call, self._shared.upstream.clock)
                except ServerBusy as busy:
                    if not await self._fall_back_after_wait(busy, absent=request.lost_workers):
                        raise self._take_error() from None
                    return None
                if request.refusal is not None:
                    raise request.take_refusal()
                if request.answer is not None:
                    return request.answer
        if self._taken is None:
            replica = pick(self._shared, self._call, self.recovery)  # a last resort
            if replica is not None:
                self._take(begin, replica)
            elif not await self._fall_back_without_worker():
                raise self._take_error()
        taken, self._taken = self._taken, None
        return taken

    # after a failure

    async def after(self, attempt: Attempt, failure: AttemptFailed) -> None:
        """Wait until the request's next attempt is due. Raises the client's error if there is none, and Poison."""
        poison, recovery = self._shared.poison, self.recover()
        attempt.fail(failure)
        recovery.note(attempt.replica, failure)
        if isinstance(failure, Lost) and failure.in_progress and poison is not None:
            await look_for_crash(poison, self._call, recovery, attempt)
        self.close()
        delay = await self._next_step(recovery, failure)
        if delay is None:
            raise self._take_error()
        if delay:
            await asyncio.sleep(delay)

    @property
    def is_suspect(self) -> bool:
        """True if the request may have crashed an engine, and no other one has begun to answer it since."""
        return self.recovery is not None and self.recovery.suspect

    async def begin_trial(self, attempt: Attempt, begun: Callable[[], bool]) -> bool:
        """Wait until the worker has no other request of a crash. Return False if another worker must be chosen: the
        attempt is then closed. `begun`: returns True once the answer has begun."""
        poison, call = self._shared.poison, self._call
        assert poison is not None  # it has found the crash
        name, size, acquitted = call.operation.name, call.decision.size, self.recover().acquit
        self._trial = trial = await poison.begin_trial(attempt.replica.worker, name, call.request, size, acquitted)
        if trial is None:
            attempt.close()
            return False
        trial.begun = begun
        return True

    # internal

    def _take(self, begin: Begin, replica: Replica) -> None:
        note_choice(self._shared, self._call, self.recovery, replica.worker)
        self._taken = begin(replica)

    def _now(self) -> float:
        """Monotonic seconds."""
        return self._shared.upstream.clock.monotonic_ns() / 1e9

    def _excluded(self) -> Collection[str]:
        return self.recovery.excluded() if self.recovery is not None else ()

    async def _next_step(self, recovery: Recovery, failure: AttemptFailed) -> float | None:
        """Return the seconds until the next attempt, perhaps of another model; None if there is none."""
        shared, now = self._shared, self._now()
        if recovery.seeks_room:
            recovery.seeks_room = False
            everywhere = isinstance(failure, ContextTooLong) and failure.everywhere
            if not everywhere and recovery.has_room(recovery.context, now):
                return 0.0
            return 0.0 if await self._fall_back(client_error(failure), "context") else None
        if isinstance(failure, ModelGone):
            shared.refresh()
        recovery.failures.append(failure)
        decision = recovery.decide(self._seat.budget, now, shared.rng)
        if isinstance(decision, Retry):
            return decision.delay
        if recovery.try_return(self._seat.budget, now):
            return shared.rng.uniform(MIN_DELAY, MAX_DELAY) if isinstance(failure, Busy) else 0.0
        failure = decision.failure
        return 0.0 if await self._fall_back(client_error(failure), reason_of(failure)) else None

    async def _fall_back_after_wait(self, busy: ServerBusy, *, absent: bool) -> bool:
        """No worker had room in time. `absent`: none was healthy."""
        resolution = self._call.resolution
        error = resolution.no_worker() if absent and not resolution.starts_from_zero else busy
        return await self._fall_back(error.with_traceback(None), "no_worker" if absent else "overloaded")

    async def _fall_back_without_worker(self) -> bool:
        """No worker of the model is left."""
        failures = self.recover().failures
        if not failures:
            return await self._fall_back(self._call.resolution.no_worker(), "no_worker")
        failure = most_specific(failures)
        return await self._fall_back(client_error(failure), reason_of(failure))

    async def _fall_back(self, error: ClientError, reason: Reason | None) -> bool:
        """Give the request to another model. Return False if there is none, and keep the client's error.

        `reason`: None if the request is at fault.
        """
        recovery, call, seat = self.recover(), self._call, self._seat
        seat.leave()
        while recovery.fallbacks.move(error, reason, recovery.context):
            recovery.begin_model()
            try:
                queue = seat.enter(call.resolution).queue
                if queue is not None:
                    await seat.wait_in(queue, call, self._shared.upstream.clock)
            except ServerBusy as busy:
                error, reason = busy.with_traceback(None), "overloaded"
                seat.leave()
            else:
                return True
        return False

    def _take_error(self) -> ClientError:
        """Return the client's error, and forget it: its traceback refers to the request."""
        fallbacks = self.recover().fallbacks
        error, fallbacks.error = fallbacks.error, None
        assert error is not None  # from `_fall_back`
        return error
