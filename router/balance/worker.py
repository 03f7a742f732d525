"""A worker's live state in this router process: load, health, speed. No I/O; time is passed in."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Protocol

from vllama_pool.router.balance.hashing import stable_hash
from vllama_pool.router.balance.health import WorkerHealth
from vllama_pool.router.balance.pace import Pace
from vllama_pool.router.balance.speed import MIN_FULL_TIME, Peers, Rate
from vllama_pool.router.balance.vacancies import Vacancies
from vllama_pool.router.errors import AttemptFailed, Busy, Lost, ModelGone, Refused
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerRecord, WorkerState

SLOW_START = 10.0
"""Seconds until a new, restarted or readmitted worker gets its full share."""

INITIAL_WEIGHT = 0.1
"""Its share at first. Without it, an idle cold worker would attract every request."""

FULL_KV_USAGE = 0.95
"""A worker with a queue in vLLM and a larger share of the KV cache in use is full, whatever its slots."""

REPORT_LAG = 1.0
"""Minimum time in seconds for which a report may still count requests that we have finished."""

DENIAL_DURATION = 5.0
"""Seconds for which a worker gets no request for a model that it answered 404 for."""

MUTE = frozenset((WorkerState.STARTING, WorkerState.SLEEPING))
"""States in which vLLM answers nothing. An agent also reports STARTING while an attached vLLM is frozen or away."""

DRAINING_ASKED = "draining (asked)"
"""State of a worker that operators drain, for people."""


class Observer(Protocol):
    def changed(self, worker: Worker, /) -> None:
        """The worker's state, health or refusals may have changed, and with them its eligibility."""


class Worker:
    """One worker as this router sees it. The pool and leases change it, policies read it."""

    __slots__ = (
        *("id", "record", "endpoint", "slots", "position", "observers", "last_report", "reported_at", "serving"),
        *("in_flight", "down", "health", "problem", "rate", "speed", "peers", "troubled", "_others_load", "seed"),
        *("answered_at", "exit_seen", "free_speed", "last_failure", "pace", "full_at", "vacancies"),
        *(
            "_full_share_at",
            "_peak",
            "_previous_peak",
            "_peak_since",
            "_full_since",
            "_answered_busy",
            "_busy",
            "_denied_until",
            "_set_aside",
            "_drained",
        ),
    )

    def __init__(
        self, record: WorkerRecord, endpoint: Endpoint, now: float, vacancies: Vacancies | None = None
    ) -> None:
        """`vacancies`: of the pool, told of each event that may make room."""
        self.id = record.id
        self.record = record
        self.endpoint = endpoint
        """The same object until the address changes."""
        self.slots = record.slots
        self.seed = stable_hash(record.id)
        """The same in every router."""
        self.position = 0
        """Its place in the pool's order. Set by the pool."""
        self.observers: list[Observer] = []
        self.last_report = LoadReport()
        self.serving = True
        """True if its latest report says that it is ready."""
        self.reported_at: float | None = None
        """Time of the latest report, in monotonic seconds; None before the first."""
        self.in_flight = 0
        """Requests of this process."""
        self.down = False
        """True if its beats stopped. It is then a last resort."""
        self.health = WorkerHealth()
        self.problem = ""
        """Why the latest connection failed; "" after a success."""
        self.answered_at = float("-inf")
        """When its engine latest produced a token that this process knows of: a first content, or a reported rate."""
        self.exit_seen = float("-inf")
        """When this process first saw the latest end of its engine, in monotonic seconds."""
        self.last_failure: tuple[float, str] | None = None
        """Time and kind of the latest failed request or probe."""
        self.troubled = False
        """True from a failure until a success has made up for it. Without, another success changes nothing."""
        self.rate = Rate()
        self.speed = record.speed
        """Speed when full, relative to its peers."""
        self.pace = Pace(record.speed)
        self.free_speed = record.speed
        """Speed with a free slot: the declared one, less if it is far slower than its peers."""
        self.peers: Peers | None = None
        """The workers of the same first model. Set by the pool."""
        self._full_share_at = now + SLOW_START
        self._others_load = 0
        self._peak = self._previous_peak = 0  # of in_flight, in periods of REPORT_LAG
        self._peak_since = now
        self._full_since: float | None = None
        self._answered_busy = False
        self._busy = False  # full whatever its load
        self._denied_until: dict[str, float] = {}
        self._set_aside = ""
        self._drained = False
        self.vacancies = vacancies or Vacancies()
        self.full_at = record.slots or sys.maxsize
        """Full if `in_flight` is not less."""

    def __repr__(self) -> str:
        slots = self.record.slots or "?"
        return f"<Worker {self.id} {self.state}, {self.load}/{slots} busy, {self.in_flight} ours, x{self.speed:.2f}>"

    @property
    def state(self) -> WorkerState:
        return self.last_report.state

    @property
    def set_aside(self) -> str:
        """The operators' message if they have set the worker aside, else "". It then gets no requests."""
        return self._set_aside

    @set_aside.setter
    def set_aside(self, message: str) -> None:
        if message != self._set_aside:
            self._set_aside = message
            self._changed()

    @property
    def drained(self) -> bool:
        """True if operators have asked that it drains. It then gets no new requests."""
        return self._drained

    @drained.setter
    def drained(self, drained: bool) -> None:
        if drained is not self._drained:
            self._drained = drained
            self._changed()

    @property
    def is_open(self) -> bool:
        """True if it serves, is not set aside and not drained. It may be down or unhealthy."""
        return self.serving and not self._set_aside and not self._drained

    @property
    def unresponsive(self) -> bool:
        """True if waiting requests get no answer: it is down or silent, or its agent gets no answer from its vLLM, or
        that sleeps."""
        return self.down or self.health.silent or self.state in MUTE

    def is_suspect(self, now: float) -> bool:
        return self.health.is_suspect(now)

    def is_available(self, now: float) -> bool:
        """True if open, up and healthy. It may be full: that only ranks it last."""
        return self.is_open and not self.down and self.health.is_healthy(now)

    @property
    def load(self) -> int:
        """Requests of all routers: our own in flight, plus other routers' load.

        Other routers' load = reported load - our peak in flight over the last 1-2 s. We use the peak because the report
        lags: vLLM may still count requests that we have finished.
        """
        return self.in_flight + self._others_load

    @property
    def others_load(self) -> int:
        """Requests of other routers, by its latest report."""
        return self._others_load

    @property
    def full(self) -> bool:
        """True if it has no free slot; with unknown slots, if its queue is not empty. Also true after a Busy response,
        until the next report or success."""
        return self.in_flight >= self.full_at

    @property
    def has_room(self) -> bool:
        """True if it may get a request that could also wait in the router.

        A tenth more than the slots keeps its batch full while the next requests are on their way. With unknown slots,
        or a full KV cache, nothing may wait in vLLM. The router's share of the slots is its own even if other routers
        fill them all: they then get fewer, and none of them starves. After a Busy answer, one request at a time tries.
        """
        if self._busy:
            return not (self.in_flight or self.last_report.waiting)
        most = -(-self.slots * 11 // 10)
        if not most or self.in_flight + self._others_load < most:
            return True
        return self.in_flight < max(1, most // max(2, self.vacancies.sharers))

    @property
    def answered_busy(self) -> bool:
        """True after a Busy response, until the next report or success."""
        return self._answered_busy

    @property
    def beyond_slots(self) -> int:
        """Load minus slots; negative for free slots. With unknown slots: the length of its queue, or -1 if empty."""
        return self.load - self.slots if self.slots else self.last_report.waiting or -1

    def weight(self, now: float) -> float:
        """Factor on its speed during slow start, INITIAL_WEIGHT to 1."""
        left = min((self._full_share_at - now) / SLOW_START, 1.0)
        return 1.0 if left <= 0 else INITIAL_WEIGHT + (1 - INITIAL_WEIGHT) * (1 - left)

    def score(self, now: float) -> float:
        """Load per speed after one more request: lower is better."""
        rank = self.rank(now)
        return rank if rank > 0 else -1 / rank

    def rank(self, now: float) -> float:
        """Return the score of a full worker, and -1 / score of one with a free slot, which thus ranks first.

        Measured speed counts only if the worker is full, when the queue moves at that speed. With a free slot the
        request starts at once, and a faster worker frees its slots sooner anyway: counting speed too would square it.
        The declared speed always counts, and a pace far below that of its peers.
        """
        load = self.in_flight + self._others_load
        full = self.in_flight >= self.full_at
        speed = self.speed if full else self.free_speed
        if now < self._full_share_at:
            speed *= self.weight(now)
        if self.troubled:
            speed /= self.health.penalty(now)
        return (load + 1) / speed if full else -speed / (load + 1)

    @property
    def is_plain(self) -> bool:
        """True if it is healthy at any time and refuses no model."""
        return not self._denied_until and self.health.is_closed

    def offers(self, model: str, now: float) -> bool:
        """False for DENIAL_DURATION after it answered 404 for the model."""
        return not self._denied_until or self._denied_until.get(model, now) <= now

    def denied_for(self, model: str, now: float) -> float:
        """Return the seconds for which it does not offer the model."""
        return max(0.0, self._denied_until.get(model, now) - now)

    def next_change(self, model: str, now: float) -> float:
        """Return the time at which, without an event, its health changes or it offers the model again."""
        due = self.health.next_change(now)
        denied_until = self._denied_until.get(model, now)
        return min(due, denied_until) if denied_until > now else due

    # called by the pool

    def renew(self, record: WorkerRecord, endpoint: Endpoint, now: float) -> None:
        """Replace the record. A new generation is a new process."""
        if record.generation != self.record.generation:
            self._restarted(now)
        if record.models != self.record.models:
            self._denied_until.clear()
        if record.speed != self.record.speed:
            self.free_speed = self.pace.declared = record.speed
        self.record = record
        self.slots = record.slots
        if endpoint != self.endpoint:
            self.endpoint = endpoint
        self._update_full()
        self._note_vacancy()

    def report(self, load: LoadReport, now: float) -> None:
        """A load report is also a beat."""
        ready = load.state is WorkerState.READY
        readmitted = False
        if load.restarts > self.last_report.restarts or (ready and not self.serving):
            self._restarted(now)
        elif ready:
            readmitted = self.health.record_beat()
            if readmitted or self.down:
                self._full_share_at = now + SLOW_START
        if readmitted or self.down or ready is not self.serving:
            self._changed()
        elapsed = now - self.reported_at if self.reported_at is not None else 0.0
        if load.exit != self.last_report.exit:
            self.exit_seen = now
        self.last_report = load
        self.serving = ready
        self.down = False
        self.reported_at = now
        self._answered_busy = False
        if now - self._peak_since >= REPORT_LAG:
            self._previous_peak, self._peak, self._peak_since = self._peak, self.in_flight, now
        self._others_load = max(0, load.running + load.waiting - max(self._peak, self._previous_peak))
        self._update_full()
        if not (load.waiting > 0 or 0 < self.slots <= load.running):
            self._full_since = None
        elif self._full_since is None:
            self._full_since = now
        if load.tokens_per_second > 0:
            self.answered_at = now
        full = self._full_since is not None and now - self._full_since >= MIN_FULL_TIME
        self.rate.record_report(load.tokens_per_second, full, elapsed, now)
        self.pace.record_report(load.running, load.tokens_per_second, elapsed, now)
        self._note_vacancy()

    def update_speed(self, now: float) -> None:
        peers, declared = self.peers, self.record.speed
        if peers is None:
            return
        self.speed = peers.speed(self.rate, declared, now)
        drag = peers.drag(self.pace, now)
        if self.free_speed < declared and drag == 1.0:
            self._full_share_at = now + SLOW_START
        self.free_speed = declared * drag

    def mark_up(self, now: float) -> None:
        """Record a successful probe."""
        self.problem = ""
        if self.health.link.record_success(now) or self.down:
            self._full_share_at = now + SLOW_START
            self._changed()
        self.down = False

    def mark_suspect(self, now: float) -> None:
        """Record a failed probe."""
        self.health.link.record_failure(now, now)
        self.troubled = True
        self.last_failure = now, "Probe"
        self._changed()

    def mark_silent(self, problem: str, now: float) -> None:
        """Record a canary without a token, while its health checks may succeed."""
        self.health.silent = self.troubled = True
        self.problem = problem
        self.last_failure = now, "Silent"
        self._changed()

    def mark_down(self) -> None:
        """Make it a last resort, as its beats stopped. Its pace before says nothing about the time after its return."""
        self.down = True
        self.pace.forget()
        self._changed()

    # called by leases

    def begin_request(self, now: float) -> bool:
        """Return True if the request is a probe."""
        self.in_flight += 1
        if self.in_flight > self._peak:
            self._peak = self.in_flight
        if not self.troubled:
            return False
        is_probe = self.health.acquire_probe(now)
        if is_probe:
            self._changed()
        return is_probe

    def release_probe(self) -> None:
        """End a probe without a result."""
        self.health.release_probe()
        self._changed()

    def end_request(self) -> None:
        self.in_flight -= 1
        if self.vacancies.watched:
            self.vacancies.note()

    def correct_in_flight(self, count: int) -> None:
        """Replace a wrong count. A probe may be among the requests that it counted."""
        self.in_flight = count
        self.release_probe()

    def record_success(self, sent: float, now: float) -> None:
        if self._answered_busy:
            self._answered_busy = False
            self._update_full()
            self._note_vacancy()
        self.problem = ""
        if self.health.record_success(sent):
            self._full_share_at = now + SLOW_START
            self._changed()
        self.troubled = not self.health.is_clean

    def record_failure(self, failure: AttemptFailed, model: str, sent: float, now: float) -> None:
        self.troubled = True
        self.health.record_failure(failure, sent, now)
        self.problem = failure.text if isinstance(failure, Lost) else ""
        if not isinstance(failure, Refused):
            self.last_failure = now, type(failure).__name__
        if isinstance(failure, Busy):
            self._answered_busy = True
            self._update_full()
        elif isinstance(failure, ModelGone) and model:
            self._denied_until[model] = now + DENIAL_DURATION
        self._changed()

    def _restarted(self, now: float) -> None:
        self._full_share_at = now + SLOW_START
        self._denied_until.clear()
        self.pace.forget()
        self.free_speed = self.record.speed
        self.health.reset(now)
        self._changed()

    def _update_full(self) -> None:
        load = self.last_report
        queues = load.waiting > 0 and (not self.slots or load.kv_usage >= FULL_KV_USAGE)
        self._busy = self._answered_busy or queues
        self.full_at = 0 if self._busy else self.slots - self._others_load if self.slots else sys.maxsize

    def _changed(self) -> None:
        for observer in self.observers:
            observer.changed(self)
        self._note_vacancy()

    def _note_vacancy(self) -> None:
        if self.vacancies.watched:
            self.vacancies.note()


@dataclass(frozen=True, slots=True)
class Replica:
    """A worker as a server of one of its models. `model.name` is the name sent upstream."""

    worker: Worker
    model: ModelInfo
