"""A worker's live state in this router process, and the events that change it. No I/O; time is passed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vllama_pool.router.balance.hashing import stable_hash
from vllama_pool.router.balance.health import WorkerHealth
from vllama_pool.router.balance.load import WorkerLoad
from vllama_pool.router.balance.vacancies import Vacancies
from vllama_pool.router.balance.worker_speed import WorkerSpeed
from vllama_pool.router.errors import AttemptFailed, Busy, Lost, ModelGone, Refused
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerRecord, WorkerState

DENIAL_DURATION = 5.0
"""Seconds for which a worker gets no request for a model that it answered 404 for."""

MUTE = frozenset((WorkerState.STARTING, WorkerState.SLEEPING))
"""States in which vLLM answers nothing. An agent also reports STARTING while an attached vLLM is frozen or away."""

DRAINING_ASKED = "draining (asked)"
"""State of a worker that operators drain, for people."""


class Observer(Protocol):
    def changed(self, worker: Worker, /) -> None:
        """The worker's state, health or refusals may have changed, and with them its eligibility."""


class Worker(WorkerLoad):
    """One worker as this router sees it. The pool and leases change it, policies read it."""

    __slots__ = (
        *("_denied_until", "_drained", "_set_aside", "answered_at", "down", "endpoint", "exit_seen", "health", "id"),
        *("last_failure", "observers", "position", "problem", "record", "reported_at", "seed", "serving", "speed"),
        "troubled",
    )

    def __init__(
        self, record: WorkerRecord, endpoint: Endpoint, now: float, vacancies: Vacancies | None = None
    ) -> None:
        """`vacancies`: of the pool, told of each event that may make room."""
        super().__init__(record.slots, now, vacancies or Vacancies())
        self.id = record.id
        self.record = record
        self.endpoint = endpoint
        """The same object until the address changes."""
        self.seed = stable_hash(record.id)
        """The same in every router."""
        self.position = 0
        """Its place in the pool's order. Set by the pool."""
        self.observers: list[Observer] = []
        self.serving = True
        """True if its latest report says that it is ready."""
        self.reported_at: float | None = None
        """Time of the latest report, in monotonic seconds; None before the first."""
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
        self.speed = WorkerSpeed(record.speed, now)
        self._denied_until: dict[str, float] = {}
        self._set_aside = ""
        self._drained = False

    def __repr__(self) -> str:
        slots = self.record.slots or "?"
        load, speed = f"{self.load}/{slots} busy, {self.in_flight} ours", self.speed.full
        return f"<Worker {self.id} {self.state}, {load}, x{speed:.2f}>"

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
            self.speed.declare(record.speed)
        self.record = record
        if endpoint != self.endpoint:
            self.endpoint = endpoint
        self._set_slots(record.slots)

    def report(self, load: LoadReport, now: float) -> None:
        """A load report is also a beat."""
        ready = load.state is WorkerState.READY
        readmitted = False
        if load.restarts > self.last_report.restarts or (ready and not self.serving):
            self._restarted(now)
        elif ready:
            readmitted = self.health.record_beat()
            if readmitted or self.down:
                self.speed.begin_slow_start(now)
        if readmitted or self.down or ready is not self.serving:
            self._changed()
        elapsed = now - self.reported_at if self.reported_at is not None else 0.0
        if load.exit != self.last_report.exit:
            self.exit_seen = now
        self.serving = ready
        self.down = False
        self.reported_at = now
        self._set_report(load, now)
        if load.tokens_per_second > 0:
            self.answered_at = now
        self.speed.record_report(load, self.slots, elapsed, now)
        self._note_vacancy()

    def mark_up(self, now: float) -> None:
        """Record a successful probe."""
        self.problem = ""
        if self.health.link.record_success(now) or self.down:
            self.speed.begin_slow_start(now)
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
        self.speed.pace.forget()
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

    def correct_in_flight(self, count: int) -> None:
        """Replace a wrong count. A probe may be among the requests that it counted."""
        self.in_flight = count
        self.release_probe()

    def record_success(self, sent: float, now: float) -> None:
        if self._answered_busy:
            self._set_answered_busy(False)
            self._note_vacancy()
        self.problem = ""
        if self.health.record_success(sent):
            self.speed.begin_slow_start(now)
            self._changed()
        self.troubled = not self.health.is_clean

    def record_failure(self, failure: AttemptFailed, model: str, sent: float, now: float) -> None:
        self.troubled = True
        self.health.record_failure(failure, sent, now)
        self.problem = failure.text if isinstance(failure, Lost) else ""
        if not isinstance(failure, Refused):
            self.last_failure = now, type(failure).__name__
        if isinstance(failure, Busy):
            self._set_answered_busy(True)
        elif isinstance(failure, ModelGone) and model:
            self._denied_until[model] = now + DENIAL_DURATION
        self._changed()

    def _restarted(self, now: float) -> None:
        self.speed.restart(now)
        self._denied_until.clear()
        self.health.reset(now)
        self._changed()

    def _changed(self) -> None:
        for observer in self.observers:
            observer.changed(self)
        self._note_vacancy()


@dataclass(frozen=True, slots=True)
class Replica:
    """A worker as a server of one of its models. `model.name` is the name sent upstream."""

    worker: Worker
    model: ModelInfo
