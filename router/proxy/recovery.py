"""The failures of one request, and what may still answer it."""

from __future__ import annotations

import logging
import random
from collections.abc import Collection

from vllama_pool.router.balance.budget import RetryBudget
from vllama_pool.router.balance.retry import MAX_ATTEMPTS as MOST_ATTEMPTS
from vllama_pool.router.balance.retry import Attempts, GiveUp, Retry, decide
from vllama_pool.router.balance.worker import Replica, Worker
from vllama_pool.router.errors import AttemptFailed, Busy, ContextTooLong, Faulty, Lost, ModelGone
from vllama_pool.router.poison.apart import trial_workers
from vllama_pool.router.poison.evidence import CrashId
from vllama_pool.router.poison.guard import PoisonGuard
from vllama_pool.router.proxy import context_fit
from vllama_pool.router.proxy.fallback import MAX_ATTEMPTS, Fallbacks, reason_of, spoils_worker
from vllama_pool.router.proxy.forward_request import ForwardRequest
from vllama_pool.router.telemetry.request_record import RequestRecord

_log = logging.getLogger(__name__)


class Recovery:
    """Made when something fails, or asks whether it may: most requests need none."""

    __slots__ = (
        *("_busy", "_call", "_record", "_spoiled", "context", "crashes", "failures", "fallbacks", "returned"),
        *("explained", "losses", "seeks_room", "suspect", "tried"),
    )

    def __init__(self, call: ForwardRequest, record: RequestRecord) -> None:
        self._call = call
        self._record = record
        self.tried = [record.worker] if record.attempts else []
        """Workers that get no further attempt for the present model, by id."""
        self.failures: list[AttemptFailed] = []
        """Of the present model."""
        self._spoiled: tuple[str, ...] = ()
        """Workers that get no attempt for other models either."""
        self._busy: set[str] = set()
        self.returned = False
        """The request waits for a worker of the present model again, as a new one does."""
        self.crashes: list[CrashId] = []
        """Engines that died by themselves with the request in progress."""
        self.suspect = False
        """No other engine has begun to answer the request since the latest of these."""
        self.explained = False
        """A request that is refused since has caused the latest crash and an earlier one."""
        self.losses: list[tuple[Worker, float]] = []
        """Workers that were lost in mid-stream, and when they got the request."""
        self.context = 0
        """One in tokens that was too small."""
        self.seeks_room = False
        """The present attempt fails because a larger context may do."""
        self.fallbacks = Fallbacks(call, record)

    def __repr__(self) -> str:
        return f"<Recovery of {self._record.id}, {len(self.failures)} failures>"

    def excluded(self) -> list[str]:
        """Return the workers that get no further attempt, by id."""
        if not self.context:
            return self.tried
        return [*self.tried, *context_fit.too_small(self._call.resolution, self.context)]

    def avoided(self) -> Collection[str]:
        """Return the workers to avoid while another one has room, by id.

        A request that may have crashed an engine avoids the streams that go on elsewhere, and they avoid it.
        """
        lost = self.losses[-1][0] if self.losses else None
        if self.suspect:
            crashed = self.crashes[-1].worker
        elif lost is not None and lost.last_report.exit is not None:
            crashed = lost.id
        else:
            return ()
        workers = (replica.worker for replica in self._call.resolution.replicas)
        others = {one.id for one in workers if one.id != crashed and one.is_open and not one.down}
        chosen = trial_workers(crashed, others)
        return others - chosen if self.suspect and chosen else chosen

    async def may_go_on(self, poison: PoisonGuard) -> bool:
        """False if the request was in progress on two engines that died by themselves, and no other one explains it."""
        if len(self.crashes) + len(self.losses) < 2:
            return True
        for worker, sent in self.losses:
            crash = await poison.crash_of(worker, sent, met=bool(self.crashes))
            if crash is not None and crash not in self.crashes:
                self.crashes.append(crash)
        call = self._call
        return await poison.may_meet_another(self.crashes, call.operation.name, call.request, call.decision.size)

    def note(self, replica: Replica, failure: AttemptFailed) -> None:
        """Record a failed attempt."""
        # Without the text: vLLM's errors may quote the prompt.
        name = type(failure).__name__
        _log.debug("request %s: %s failed: %s %d", self._record.id, replica.worker.id, name, failure.status)
        self._record.failures.append(name)
        if spoils_worker(failure):
            self._spoiled += (replica.worker.id,)
        if isinstance(failure, Busy):
            self._busy.add(replica.worker.id)

    def note_crash(self, crash: CrashId) -> None:
        """An engine died by itself with the request in progress."""
        self.explained = bool(self.crashes)
        self.crashes.append(crash)
        self.suspect = True

    def acquit(self) -> None:
        """Another engine has begun to answer the request."""
        self.suspect = False

    def begin_model(self) -> None:
        """A fallback takes over."""
        self.tried, self.failures, self.returned = list(self._spoiled), [], False

    def decide(self, budget: RetryBudget, now: float, rng: random.Random) -> Retry | GiveUp:
        """Decide after the latest of `failures`, and spend what a retry costs."""
        untried, limit = self._call.resolution.count_untried(self.excluded(), now), self._limit
        explained, self.explained = self.explained, False
        decision = decide(Attempts(tuple(self.failures), untried, budget.available, limit, explained), rng)
        if isinstance(decision, Retry) and decision.budgeted:
            budget.try_spend()
        return decision

    def try_return(self, budget: RetryBudget, now: float) -> bool:
        """Let the request wait for a worker again, because none is left to be tried, but another try may succeed.

        So it is after a 429 of the last worker, which is not ill, and for a model that starts from zero workers. A
        model that may answer instead comes first. The budget pays for a 429.
        """
        latest, resolution = self.failures[-1], self._call.resolution
        if len(self.failures) >= self._limit or any(isinstance(each, Faulty | ModelGone) for each in self.failures):
            return False
        reason = reason_of(latest)
        if reason is None or self.fallbacks.has_next(reason, self.context):
            return False
        if isinstance(latest, Busy):
            if not budget.try_spend():
                return False
            self.tried = [worker for worker in self.tried if worker not in self._busy]
        elif isinstance(latest, Lost) and resolution.starts_from_zero:
            if resolution.count_untried((), now).healthy:
                return False
            self.tried = []
        else:
            return False
        self.returned = True
        return True

    @property
    def _limit(self) -> int:
        """Attempts of the present model, at most."""
        resolution = self._call.resolution
        retries = None if resolution.rule is None else resolution.rule.entry.retries
        attempts = MOST_ATTEMPTS if retries is None else retries.attempts
        return min(attempts, len(self.failures) + MAX_ATTEMPTS - self._record.attempts)

    def has_room(self, context: int, now: float) -> bool:
        """True if a healthy worker of the model has a context of more tokens."""
        if self._record.attempts >= MAX_ATTEMPTS:
            return False
        return context_fit.has_room(self._call.resolution, context, self.tried, now)

    def has_larger(self, replica: Replica, now: float) -> bool:
        """True if a larger context than that of the replica, or of the entry, may answer."""
        context, limit = replica.model.context_length, self._call.defaults.context
        if limit is not None and not 0 < context <= limit:
            return self.fallbacks.has_room(limit)
        return self.has_room(context, now) or self.fallbacks.has_room(context)

    def moves_for(self, refusal: ContextTooLong, replica: Replica, now: float) -> bool:
        """True if the request goes to a larger context after this refusal: the attempt then fails with it."""
        context = context_fit.exceeded(refusal, replica)
        fallbacks = self.fallbacks
        if refusal.everywhere:
            moves = fallbacks.has_room(context)
        elif refusal.prompt_fits:  # a shorter answer is better than another model
            moves = self.has_room(context, now)
        else:
            # A model that was asked before may have room: its error is better than a shorter prompt.
            moves = fallbacks.context > context or self.has_room(context, now) or fallbacks.has_room(context)
        if moves:
            self.seeks_room = True
            self.context = max(self.context, context)
        return moves
