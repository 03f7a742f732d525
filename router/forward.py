"""Finding a worker that answers: select, send, and try elsewhere until the client's answer may begin.

The first attempt is plain code; tenacity drives the further ones. Nothing is retried once the client has a byte.
An `Answer` owns the worker's response and the lease on the worker, and gives both back once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from router.asking import follow
from router.balance.admission import Admission
from router.balance.lease import Answered, ClientGone, Failed, Lease, Outcome
from router.balance.pool import Pool
from router.balance.retry import Attempts, Budget, GiveUp, Retry, decide, verdict
from router.balance.routes import Resolution
from router.balance.worker import Target
from router.errors import AttemptFailed, Busy, ClientError, Lost, ModelGone, NoWorker, Refused, Unavailable
from router.observe import RequestRecord
from router.protocol.errors import of_stream
from router.protocol.operation import Clock, Fold, Operation, Outgoing, Reply, Step, Timing
from router.refusals import refused_by
from router.stalls import StallWatch
from router.transport import Client, Response, TransportError

FINISHED_AT_ONCE = 64 * 1024
"""Bytes of an answer whose end is worked out within the event loop: some milliseconds at worst."""

WORKER_LOST = "the worker was lost while it was answering; send the request again"


@dataclass(frozen=True, slots=True)
class Call:
    """One decoded request, on its way to a worker."""

    operation: Operation[Any]
    request: Any
    resolution: Resolution
    arrived: int
    """When the request was complete: monotonic nanoseconds."""
    request_id: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may cost before its answer begins."""

    connect: float = 1.0
    """Seconds."""
    waiting: int = 512
    """Requests; see `Admission`."""


class Answer:
    """A worker's answer that may begin. Its owner calls `close` on every path; further calls do nothing."""

    def __init__(self, lease: Lease, response: Response, fold: Fold, first: bytes) -> None:
        self.budget: Budget | None = None
        """Left when the answer is closed: the request is in flight until then."""
        self.response = response
        self.fold = fold
        self.first = first
        """What the client gets for what has been read so far."""
        self._lease = lease

    @property
    def worker_silent(self) -> bool:
        """Whether the worker's beats, or this router's probes of it, have stopped."""
        return self._lease.worker.silent

    def close(self, outcome: Outcome) -> None:
        """Give the connection and the place in the worker back."""
        self.response.close()
        self._lease.release(outcome)
        if self.budget is not None:
            self.budget.leave()
            self.budget = None


class _Waiting:
    """An attempt until the client's answer may begin; the stall watch may end it.

    That is its first content event, or, where nothing is streamed to the client, the answer's end.
    """

    excused = False

    def __init__(self, lease: Lease, allowed: asyncio.Timeout) -> None:
        self._lease = lease
        self._allowed = allowed
        self.last_heard = asyncio.get_running_loop().time()
        self.begun = False
        self.reason = ""

    def content(self) -> None:
        """Content has come, though not enough for the client's answer to begin."""
        self.begun = True
        self.heard()

    def heard(self) -> None:
        """The worker has said something, though nothing of the answer."""
        self.last_heard = asyncio.get_running_loop().time()

    @property
    def worker_silent(self) -> bool:
        return self._lease.worker.silent

    def give_up(self, text: str) -> None:
        if not self.reason:
            self.reason = text
            self._allowed.reschedule(asyncio.get_running_loop().time())


class Forwarder:
    """Sends calls to workers. Owns the retry budgets; everything else is passed in."""

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
        """`refresh` is told when a worker denies a model that it claimed: the view of the workers is old."""
        self._client = client
        self._pool = pool
        self._stalls = stalls
        self._clock = clock
        self._rng = rng
        self._limits = limits
        self._refresh = refresh
        self._admission = Admission(limits.waiting)
        self._budgets: dict[str, Budget] = {}

    async def acquire(self, call: Call, record: RequestRecord) -> Answer | Reply:
        """An answer that may begin, from the first worker that gives one; or a reply, where asking a worker was enough.

        Raises ClientError: ServerBusy, NoWorker, or the most telling of the attempts' failures. Cancelling it ends the
        attempt under way, and the worker's request with it.
        """
        self._admission.enter(call.resolution)
        budget = self._budgets.setdefault(call.resolution.model, Budget())
        budget.enter()
        try:
            answer = await self._acquire(call, record, budget)
        except BaseException:
            budget.leave()
            raise
        finally:
            self._admission.leave()
        if isinstance(answer, Reply):
            budget.leave()
        else:
            answer.budget = budget
        return answer

    async def _acquire(self, call: Call, record: RequestRecord, budget: Budget) -> Answer | Reply:
        tried: list[str] = []
        try:
            return await self._attempt(call, tried, record)
        except AttemptFailed as failure:
            failures = [failure]
        try:
            return await self._try_elsewhere(call, tried, failures, budget, record)
        except AttemptFailed as failure:
            raise client_error(failure) from None

    async def _try_elsewhere(
        self, call: Call, tried: list[str], failures: list[AttemptFailed], budget: Budget, record: RequestRecord
    ) -> Answer | Reply:
        """What follows a first failure. Raises the AttemptFailed that the client is told of."""
        decision = self._decide(call, tried, failures, budget)

        def stop(_: RetryCallState) -> bool:
            return isinstance(decision, GiveUp)

        def wait(_: RetryCallState) -> float:
            return decision.delay if isinstance(decision, Retry) else 0.0

        async def attempt() -> Answer | Reply:
            nonlocal decision
            try:
                return await self._attempt(call, tried, record)
            except AttemptFailed as failure:
                failures.append(failure)
                decision = self._decide(call, tried, failures, budget)
                raise
            except NoWorker:  # whoever was left has gone meanwhile
                outlook = call.resolution.outlook(tried, self._now())
                decision = GiveUp(verdict(Attempts(tuple(failures), outlook, budget.left)))
                raise decision.failure from None

        if isinstance(decision, Retry):
            retrying = AsyncRetrying(retry=retry_if_exception_type(AttemptFailed), stop=stop, wait=wait, reraise=True)
            try:
                return await retrying(attempt)
            except AttemptFailed:
                pass
        raise decision.failure if isinstance(decision, GiveUp) else failures[-1]

    def _decide(self, call: Call, tried: list[str], failures: list[AttemptFailed], budget: Budget) -> Retry | GiveUp:
        if isinstance(failures[-1], ModelGone):
            self._refresh()
        outlook = call.resolution.outlook(tried, self._now())
        decision = decide(Attempts(tuple(failures), outlook, budget.left), self._rng)
        if isinstance(decision, Retry) and decision.costs:
            budget.withdraw()
        return decision

    async def _attempt(self, call: Call, tried: list[str], record: RequestRecord) -> Answer | Reply:
        """One attempt on one worker. Raises AttemptFailed; NoWorker if there is nobody to ask."""
        target = call.resolution.choose(tried, self._now(), self._rng)
        if target is None:
            raise call.resolution.no_worker()
        tried.append(target.worker.id)
        record.attempts += 1
        record.worker, record.served = target.worker.id, target.model.name
        lease = self._pool.lease(target.worker, target.model.name)
        try:
            async with asyncio.timeout(None) as allowed:
                waiting = _Waiting(lease, allowed)
                with self._stalls.watching(waiting):
                    answer = await self._answer(call, target, lease, waiting)
        except TimeoutError:
            failure: AttemptFailed = Lost(waiting.reason or "the worker did not answer in time", status=504)
        except TransportError as error:
            failure = Lost(f"the worker could not be reached or was lost: {error}", status=502)
        except AttemptFailed as error:
            failure = error
        except BaseException:  # cancelled, or a fault of ours: the worker is not to blame
            lease.release(ClientGone())
            raise
        else:
            if isinstance(answer, Reply):
                lease.release(Answered(0))
            else:
                lease.begun()
            return answer
        record.failures.append(type(failure).__name__)
        lease.release(Failed(failure))
        raise failure

    async def _answer(self, call: Call, target: Target, lease: Lease, waiting: _Waiting) -> Answer | Reply:
        """The worker's answer; if it refuses the request, perhaps to the same in another form."""
        operation, defaults = call.operation, call.resolution.defaults
        step = operation.prepare(call.request, target.model, defaults)
        try:
            return await self._take(call, target, step, lease, waiting)
        except Refused as refused:
            other = operation.recover and operation.recover(call.request, target.model, defaults, refused)
            if not other:
                raise
            first = refused
        try:
            return await self._take(call, target, other, lease, waiting)
        except Refused:
            raise first from None

    async def _take(self, call: Call, target: Target, step: Step, lease: Lease, waiting: _Waiting) -> Answer | Reply:
        """Send what the step leads to, and read until the client's answer may begin."""
        if not isinstance(step, Outgoing):
            step = await follow(step, lambda path, body: self._send(call, target, path, body), waiting.heard)
            if isinstance(step, Reply):
                return step
        timing = Timing(call.arrived, self._clock.monotonic_ns())
        response = await self._send(call, target, step.path, step.body)
        try:
            if response.status != 200:
                raise await refused_by(response)
            fold = (step.fold or call.operation.fold)(call.request, timing, self._clock)
            return Answer(lease, response, fold, await first_content(response, fold, waiting.content))
        except BaseException:
            response.close()
            raise

    async def _send(self, call: Call, target: Target, path: str, body: bytes) -> Response:
        return await self._client.send(
            target.worker.endpoint,
            "POST",
            path,
            headers=_headers(call.request_id),
            body=body,
            connect_timeout=self._limits.connect,
            head_timeout=None,  # the stall watch knows how long is too long
        )

    def _now(self) -> float:
        return self._clock.monotonic_ns() / 1e9


async def first_content(response: Response, fold: Fold, begun: Callable[[], None]) -> bytes:
    """Read until the client's answer may begin. Returns what the client gets for it. `begun` is called for all that
    comes from the first content on. Raises AttemptFailed and TransportError."""
    first = bytearray()
    size = 0
    while not fold.ready:
        chunk = await response.read()
        size += len(chunk)
        if not chunk:
            # What was kept until now may be much work, and the streams of others must go on meanwhile.
            end = fold.finish() if size <= FINISHED_AT_ONCE else await asyncio.to_thread(fold.finish)
            if fold.failure is not None:
                raise of_stream(fold.failure)
            if not fold.done:
                raise Lost("the worker's answer ended before it was whole", status=502)
            return bytes(first) + end if first else end
        first += fold.feed(chunk)
        if fold.begun:
            begun()
        if fold.failure is not None and not fold.ready:
            raise of_stream(fold.failure)
    return bytes(first)


def client_error(failure: AttemptFailed) -> ClientError:
    """What the client is told when no further attempt is made (R163, R167).

    If all that can be said is that workers were lost, there is nobody left who serves the model: 503, come back.
    """
    if isinstance(failure, Lost) and failure.status == 502:
        return ClientError(failure.text, status=503, retry_after=1)
    retry_after = None
    if isinstance(failure, Busy | Unavailable) or failure.status == 503:
        retry_after = max(1, round(failure.retry_after or 1))
    return ClientError(failure.text, status=failure.status, retry_after=retry_after)


def _headers(request_id: str) -> Mapping[str, str]:
    return {"content-type": "application/json", "accept": "text/event-stream", "x-request-id": request_id}
