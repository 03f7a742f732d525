"""Shadow traffic: copies of some requests of an entry, sent to another model. Their answers are dropped.

A copy is a task of its own. It follows its request: it begins when that is sent, and ends with its own answer, or when
the client leaves, since nobody compares what has no answer. It waits for nothing: it is sent to a worker with a free
slot, or not at all, and only while the target's workers have more free slots than copies in progress. It is tried once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from vllama_pool.router.admission.grant import Grant
from vllama_pool.router.admission.share import share_of
from vllama_pool.router.balance.demand import PLAIN, Demand
from vllama_pool.router.balance.worker import Replica
from vllama_pool.router.errors import AttemptFailed, ClientError, NoWorker, Refused
from vllama_pool.router.proxy.attempt import Attempt
from vllama_pool.router.proxy.client_writer import ClientWriter
from vllama_pool.router.proxy.collaborators import Upstream
from vllama_pool.router.proxy.forward_request import ForwardRequest
from vllama_pool.router.proxy.in_flight import InFlight
from vllama_pool.router.proxy.relay import Ending
from vllama_pool.router.proxy.worker_errors import transport_failure
from vllama_pool.router.routing.resolution import Resolution, UnknownModel
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.routing.rules import Rule
from vllama_pool.router.routing.splits import PER_REQUEST
from vllama_pool.router.telemetry.request_record import RequestRecord
from vllama_pool.router.telemetry.shadow_metrics import ShadowMetrics
from vllama_pool.router.upstream.interface import TransportError

if TYPE_CHECKING:
    from vllama_pool.config.routing.model_entry import Shadow

_log = logging.getLogger(__name__)

LIMIT = "limit"
NO_FREE_SLOT = "no free slot"
NO_WORKER = "no worker"
UNSUITABLE = "unsuitable"
"""Why a drawn copy is not sent. The last: the target's model cannot do what the request needs."""
STOPPED = "stopped"


class _NotSent(Exception):
    """`reason` is one of the above."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Aim:
    """The destination of a copy."""

    entry: str
    """Of the copied request."""
    target: str
    """As the routing file names it."""
    resolution: Resolution
    replica: Replica


class Shadows:
    """Owns the copies of a process. Their numbers are kept by entry and target, and so survive a reload."""

    def __init__(
        self,
        upstream: Upstream,
        routes: Callable[[], ModelRoutes],
        rng: random.Random,
        metrics: ShadowMetrics,
        processes: int = 1,
    ) -> None:
        """`processes`: those that share the limits on copies."""
        self._upstream = upstream
        self._routes = routes
        self._rng = rng
        self._metrics = metrics
        self._processes = processes
        self._in_progress = Counter[tuple[str, str]]()
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Shadows {len(self._tasks)} copies in progress>"

    def follow(self, in_flight: InFlight) -> Follower:
        """Copy a request when it is sent."""
        return Follower(self, in_flight)

    def begin(self, call: ForwardRequest, request_id: str) -> ShadowCopy | None:
        """Send a copy of a request if its entry has a shadow, it is drawn, and there is room for the copy.

        The copy starts in the next turn of the event loop, after the request.
        """
        rule = call.resolution.rule  # perhaps of a fallback
        shadow = rule.shadow if rule is not None else None
        if rule is None or shadow is None or not _is_drawn(call, request_id, rule, shadow.share):
            return None
        try:
            aim = self._aim(call, rule.name, shadow)
        except _NotSent as refusal:
            self._metrics.skipped(rule.name, shadow.model, refusal.reason)
            return None
        return self._start(call, request_id, aim)

    async def aclose(self) -> None:
        """End all copies."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # internal

    def _aim(self, call: ForwardRequest, entry: str, shadow: Shadow) -> _Aim:
        """Raises _NotSent."""
        in_progress = self._in_progress[entry, shadow.model]
        if in_progress >= share_of(shadow.limit, self._processes):
            raise _NotSent(LIMIT)
        resolution = self._resolve(call, shadow.model)
        try:
            if call.operation.check(call.request, resolution.info, resolution.defaults) is not None:
                raise _NotSent(UNSUITABLE)
        except ClientError:
            raise _NotSent(UNSUITABLE) from None
        demand = resolution.demand(call.request, call.asker) if resolution.needs_demand else PLAIN
        return _Aim(entry, shadow.model, resolution, self._choose(resolution, in_progress, demand))

    def _resolve(self, call: ForwardRequest, name: str) -> Resolution:
        """A target with an entry of its own gets that entry's settings, any other those of the request's entry.

        Raises _NotSent.
        """
        routes = self._routes()
        match = routes.rules.find(call.request.model)
        if match is not None and match.rule is call.resolution.rule:
            name = match.fill(name)
        try:
            target = routes.resolve(name, self._upstream.pool)
        except (UnknownModel, NoWorker):
            raise _NotSent(NO_WORKER) from None
        if target.asked is not None:  # copies follow no fallbacks
            raise _NotSent(NO_WORKER)
        if target.needs_asker and call.asker is not None:
            target = target.drawn(target.identity(call.asker))
        if target.rule is None:
            target = copy(target)
            target.defaults = call.resolution.defaults
        return target

    def _choose(self, resolution: Resolution, in_progress: int, demand: Demand) -> Replica:
        """Raises _NotSent."""
        now = self._upstream.clock.monotonic_ns() / 1e9
        workers = {worker for group in resolution.groups for worker in group}
        healthy = {worker for worker in workers if worker.is_available(now)}
        if not healthy:
            raise _NotSent(NO_WORKER)
        free = {worker for worker in healthy if not worker.full and worker.beyond_slots < 0}
        if sum(-worker.beyond_slots for worker in free) <= in_progress:
            raise _NotSent(NO_FREE_SLOT)
        replica = resolution.choose([worker.id for worker in workers - free], now, self._rng, demand)
        if replica is None:
            raise _NotSent(NO_WORKER)
        return replica

    def _start(self, call: ForwardRequest, request_id: str, aim: _Aim) -> ShadowCopy:
        started = ShadowCopy(call, request_id, aim, self._upstream)
        task = asyncio.get_running_loop().create_task(started.run(), name="shadow copy")
        started.task = task
        self._tasks.add(task)
        self._in_progress[aim.entry, aim.target] += 1
        self._metrics.sent(aim.entry, aim.target)
        task.add_done_callback(lambda task: self._ended(task, started, aim))
        return started

    def _ended(self, task: asyncio.Task[None], ended: ShadowCopy, aim: _Aim) -> None:
        self._tasks.discard(task)
        ended.task = None  # the error of a cancelled one refers to the copy
        self._in_progress[aim.entry, aim.target] -= 1
        if task.cancelled():
            ended.record.outcome = STOPPED
        elif (error := task.exception()) is not None:
            _log.error("a copy for %s failed", aim.target, exc_info=error)
        self._metrics.ended(aim.entry, aim.target, ended.record)


class Follower:
    """Begins the copy of a request with its first attempt, and ends it when the client leaves."""

    __slots__ = ("_copy", "_in_flight", "_shadows")

    def __init__(self, shadows: Shadows, in_flight: InFlight) -> None:
        self._shadows = shadows
        self._in_flight = in_flight
        self._copy: ShadowCopy | None = None
        in_flight.on_send = self._begin

    def client_gone(self) -> None:
        self._in_flight.client_gone()
        if self._copy is not None:
            self._copy.stop()

    def _begin(self) -> None:
        self._copy = self._shadows.begin(self._in_flight.call, self._in_flight.record.id)


class ShadowCopy:
    """The requester of one attempt, whose client drops everything."""

    def __init__(self, call: ForwardRequest, request_id: str, aim: _Aim, upstream: Upstream) -> None:
        self._upstream = upstream
        self._replica = aim.replica
        self._attempt: Attempt | None = None
        self.task: asyncio.Task[None] | None = None
        self.record = RequestRecord(id=f"{request_id}-shadow", operation=call.operation.name, model=aim.entry)
        self.call = copied(call, self.record, aim.resolution, upstream.clock.monotonic_ns())
        self.client: ClientWriter = _Nobody()
        self.on_answer: Callable[[], None] = _do_nothing
        self.waiting = True
        self.client_left = False

    def __repr__(self) -> str:
        return f"<ShadowCopy on {self._replica.worker.id}>"

    async def run(self) -> None:
        attempt = self._attempt = Attempt(self, self._replica, self._upstream)
        try:
            if await attempt.run() is not None:
                self.record.outcome = Ending.COMPLETE
        except TransportError as error:
            self._fail(attempt, transport_failure(error))
        except AttemptFailed as failure:
            self._fail(attempt, failure)
        except ClientError:
            self.record.outcome = UNSUITABLE
        finally:
            attempt.close()
            self._attempt = None  # it refers to this: no garbage to collect
            self.record.total_ms = self._elapsed()

    def stop(self) -> None:
        """The client of the copied request left. Idempotent."""
        if self.task is not None:
            self.task.cancel()

    # the requester

    def owns(self, attempt: object) -> bool:
        return self._attempt is attempt and (self.task is None or not self.task.done())

    def has_larger(self, replica: Replica) -> bool:
        return False

    def moves_for(self, refusal: Refused, replica: Replica) -> bool:
        """A copy is tried once."""
        return False

    def begin_response(self) -> None:
        if self.waiting:
            self.waiting = False
            self.call.request = self.call.asker = None
            self.record.first_ms = self._elapsed()
            if self._attempt is not None:
                self._attempt.lease.record_first_content()

    # internal

    def _fail(self, attempt: Attempt, failure: AttemptFailed) -> None:
        # Without the text: vLLM's errors may quote the prompt.
        name = type(failure).__name__
        _log.debug("request %s: %s failed: %s %d", self.record.id, self._replica.worker.id, name, failure.status)
        self.record.outcome = "failed"
        attempt.fail(failure.with_traceback(None))

    def _elapsed(self) -> float:
        """Return milliseconds."""
        return (self._upstream.clock.monotonic_ns() - self.call.decision.arrived) // 1000 / 1000


def _do_nothing() -> None: ...


class _Nobody:
    """A client that reads everything at once."""

    def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None: ...

    def write(self, data: bytes, *, last: bool = False) -> bool:
        return True

    async def drained(self) -> None: ...


def copied(call: ForwardRequest, record: RequestRecord, resolution: Resolution, started: int) -> ForwardRequest:
    decision = type(call.decision)(record, started, call.decision.size)
    grant = Grant(output=call.grant.output)
    return ForwardRequest(call.operation, call.request, resolution, decision, grant, call.asker)


def _is_drawn(call: ForwardRequest, request_id: str, rule: Rule, share: float) -> bool:
    """Draw by the identity that keeps its side of the entry's targets, else by the request's id."""
    split = rule.entry.split
    identity = call.asker.identity(split) if call.asker is not None and split != PER_REQUEST else ""
    text = f"{rule.name}\n{identity or request_id}".encode("utf-8", "surrogatepass")
    drawn = int.from_bytes(blake2b(text, digest_size=8, person=b"shadow").digest(), "big")
    return drawn < share * 2**64
