"""A request that waits for a worker: when it may, in which line, and what it takes at its turn."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Hashable
from typing import TYPE_CHECKING

from vllama_pool.router.admission.worker_queue import ANY_WORKER
from vllama_pool.router.balance.demand import Demand
from vllama_pool.router.balance.select import Found, find
from vllama_pool.router.balance.worker import Replica
from vllama_pool.router.errors import ClientError, NoWorker
from vllama_pool.router.protocol.operation import DirectResponse
from vllama_pool.router.proxy.collaborators import Shared
from vllama_pool.router.proxy.forward_request import ForwardRequest
from vllama_pool.router.proxy.worker_turn import PATIENCE, Taking
from vllama_pool.router.routing.resolution import Resolution, UnknownModel

if TYPE_CHECKING:
    from vllama_pool.router.balance.pool import Pool
    from vllama_pool.router.routing.resolve import ModelRoutes


class WaitingRequest:
    """Made when a request finds no worker with room: most requests need none."""

    __slots__ = ("_begin", "_call", "_excluded", "_shared", "answer", "lost_workers", "refusal")

    def __init__(
        self,
        shared: Shared,
        call: ForwardRequest,
        excluded: Callable[[], Collection[str]],
        begin: Callable[[Replica], None],
    ) -> None:
        """`excluded`: returns the workers that it must not get, by id. `begin`: begins its attempt."""
        self._shared = shared
        self._call = call
        self._excluded = excluded
        self._begin = begin
        self.answer: DirectResponse | None = None
        """Of a request that needs no worker, as it turned out when one had joined."""
        self.refusal: ClientError | None = None
        """The model that has come cannot do what the request asks for."""
        self.lost_workers = False
        """The model had no healthy worker at the end of the wait, as far as those that waited had noticed."""

    def __repr__(self) -> str:
        return f"<WaitingRequest for {self._call.resolution.model!r}>"

    def may_wait(self) -> bool:
        """True if the workers are full, and for a model that may be without one.

        Where no worker is healthy, a new request is tried on a last resort at once, so that it fails at once.
        """
        found = self._find(())
        if found is None or not found.healthy:
            if self._call.resolution.starts_from_zero:
                return True
            return found is not None and not any(worker.has_room for worker in found.workers)
        return True

    @property
    def absent(self) -> bool:
        """True if no worker is healthy now."""
        found = self._find(())
        return found is None or not found.healthy

    @property
    def kind(self) -> Hashable:
        """The line of the request. See `WorkerQueue.join`."""
        found = self._find(())
        if found is None or (len(self._call.resolution.groups) == 1 and not found.group.graded):
            return ANY_WORKER
        return found.group

    @property
    def patience(self) -> float:
        """As in `WorkerTurn`."""
        return 0.0 if self._call.resolution.asked is not None else PATIENCE

    def take(self) -> Taking:
        """Begin an attempt on a healthy worker with room."""
        if not self._call.resolution.serving and not self._renew():
            return Taking.ABSENT
        if self.refusal is not None or self.answer is not None:
            return Taking.TAKEN
        found, now = self._find(self._excluded()), self._now()
        if found is None or not found.healthy:
            others = self._find(())
            return Taking.ABSENT if others is None or not others.healthy else Taking.TAKEN
        replica = choose_with_room(found, self._call.resolution, now, self._shared.rng, self._call.demand)
        if replica is None:
            return Taking.FULL
        self._begin(replica)
        return Taking.TAKEN

    def take_refusal(self) -> ClientError:
        """Return the refusal, and forget it: its traceback will refer to the request."""
        refusal, self.refusal = self.refusal, None
        assert refusal is not None  # the caller has seen it
        return refusal

    def next_change(self) -> float:
        """Return the time at which, without an event, other workers may be candidates."""
        now = self._now()
        return min((group.next_change(now) for group in self._call.resolution.groups), default=float("inf"))

    # internal

    def _renew(self) -> bool:
        """Resolve the name anew: all workers have left, and others may have come. Return False if none has."""
        call = self._call
        if call.resolution.asked is not None:
            return False
        resolution = self._shared.resolve(call)
        if resolution is None:
            return False
        call.resolution = call.decision.resolution = resolution
        try:
            self.answer = call.operation.check(call.request, resolution.info, resolution.defaults)
        except ClientError as refusal:
            self.refusal = refusal.with_traceback(None)
        return True

    def _find(self, excluded: Collection[str]) -> Found | None:
        return find(self._call.resolution.groups, excluded, self._now(), self._call.demand)

    def _now(self) -> float:
        return self._shared.upstream.clock.monotonic_ns() / 1e9


def resolve_anew(routes: Callable[[], ModelRoutes], pool: Pool) -> Callable[[ForwardRequest], Resolution | None]:
    """Return the function that resolves a request's name anew, in the live table.

    It returns None unless a worker serves the model itself: a fallback stands in when the wait is over.
    """

    def resolve(call: ForwardRequest) -> Resolution | None:
        try:
            resolution = routes().resolve(call.request.model, pool, call.grant.rights)
        except (UnknownModel, NoWorker):
            return None
        if resolution.asked is not None:
            return None
        if resolution.needs_asker and call.asker is not None:
            return resolution.drawn(resolution.identity(call.asker))
        return resolution

    return resolve


def choose_with_room(
    found: Found, resolution: Resolution, now: float, rng: random.Random, demand: Demand, *, none_waits: bool = False
) -> Replica | None:
    """Return None if no worker has room. `none_waits`: requests beyond the slots do not count as room."""
    free = [worker for worker in found.workers if worker.has_room and not (none_waits and worker.full)]
    return found.group.replica(resolution.policy.choose(free, now, rng, demand)) if free else None
