"""A worker's live state in this router process: load, health, speed. No I/O; time is passed in."""

from __future__ import annotations

from dataclasses import dataclass

from vllama_pool.router.balance.health import WorkerHealth
from vllama_pool.router.balance.speed import MIN_FULL_TIME, Rate
from vllama_pool.router.errors import AttemptFailed, Busy, Lost, ModelGone
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


class Worker:
    """One worker as this router sees it. The pool and leases change it, policies read it."""

    def __init__(self, record: WorkerRecord, endpoint: Endpoint, now: float) -> None:
        self.record = record
        self.endpoint = endpoint
        self.last_report = LoadReport()
        self.reported_at: float | None = None
        """Time of the latest report, in monotonic seconds; None before the first."""
        self.in_flight = 0
        """Requests of this process."""
        self.down = False
        """True if its beats stopped. It is then a last resort."""
        self.health = WorkerHealth()
        self.problem = ""
        """Why the latest connection failed; "" after a success."""
        self.rate = Rate()
        self.speed = record.speed
        """Speed when full, relative to the median of the model's workers. Set by the pool."""
        self._slow_start_at = now
        self._others_load = 0
        self._peak = self._previous_peak = 0  # of in_flight, in periods of REPORT_LAG
        self._peak_since = now
        self._full_since: float | None = None
        self._answered_busy = False
        self._denied_until: dict[str, float] = {}

    def __repr__(self) -> str:
        slots = self.record.slots or "?"
        return f"<Worker {self.id} {self.state}, {self.load}/{slots} busy, {self.in_flight} ours, x{self.speed:.2f}>"

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def state(self) -> WorkerState:
        return self.last_report.state

    @property
    def serving(self) -> bool:
        return self.last_report.state is WorkerState.READY

    @property
    def unresponsive(self) -> bool:
        """True if it is down or its engine sleeps: waiting requests get no answer."""
        return self.down or self.state is WorkerState.SLEEPING

    def is_suspect(self, now: float) -> bool:
        return self.health.is_suspect(now)

    def is_available(self, now: float) -> bool:
        """True if serving, up and healthy. It may be full: that only ranks it last."""
        return self.serving and not self.down and self.health.is_healthy(now)

    @property
    def load(self) -> int:
        """Requests of all routers: our own in flight, plus other routers' load.

        Other routers' load = reported load - our peak in flight over the last 1-2 s. We use the peak because the report
        lags: vLLM may still count requests that we have finished.
        """
        return self.in_flight + self._others_load

    @property
    def full(self) -> bool:
        """True if it has no free slot; with unknown slots, if its queue is not empty. Also true after a Busy response,
        until the next report or success."""
        if self._answered_busy:
            return True
        if self.record.slots:
            kv_full = self.last_report.waiting > 0 and self.last_report.kv_usage >= FULL_KV_USAGE
            return kv_full or self.load >= self.record.slots
        return self.last_report.waiting > 0

    @property
    def beyond_slots(self) -> int:
        """Load minus slots; negative for free slots. With unknown slots: the length of its queue, or -1 if empty."""
        return self.load - self.record.slots if self.record.slots else self.last_report.waiting or -1

    def weight(self, now: float) -> float:
        """Factor on its speed during slow start, INITIAL_WEIGHT to 1."""
        age = now - self._slow_start_at
        return 1.0 if age >= SLOW_START else INITIAL_WEIGHT + (1 - INITIAL_WEIGHT) * max(age, 0.0) / SLOW_START

    def score(self, now: float) -> float:
        """Load per speed after one more request: lower is better.

        Measured speed counts only if the worker is full, when the queue moves at that speed. With a free slot the
        request starts at once, and a faster worker frees its slots sooner anyway: counting speed too would square it.
        The declared speed always counts.
        """
        speed = self.speed if self.full else self.record.speed
        return (self.load + 1) * self.health.penalty(now) / (speed * self.weight(now))

    def offers(self, model: str, now: float) -> bool:
        """False for DENIAL_DURATION after it answered 404 for the model."""
        return not self._denied_until or self._denied_until.get(model, now) <= now

    # called by the pool

    def renew(self, record: WorkerRecord, endpoint: Endpoint, now: float) -> None:
        """Replace the record. A new generation is a new process."""
        if record.generation != self.record.generation:
            self._restarted(now)
        if record.models != self.record.models:
            self._denied_until.clear()
        self.record = record
        self.endpoint = endpoint

    def report(self, load: LoadReport, now: float) -> None:
        """A load report is also a beat."""
        if load.restarts > self.last_report.restarts or (load.state is WorkerState.READY and not self.serving):
            self._restarted(now)
        elif load.state is WorkerState.READY:
            readmitted = self.health.record_beat()
            if readmitted or self.down:
                self._slow_start_at = now
        elapsed = now - self.reported_at if self.reported_at is not None else 0.0
        self.last_report = load
        self.down = False
        self.reported_at = now
        self._answered_busy = False
        if now - self._peak_since >= REPORT_LAG:
            self._previous_peak, self._peak, self._peak_since = self._peak, self.in_flight, now
        self._others_load = max(0, load.running + load.waiting - max(self._peak, self._previous_peak))
        if not (load.waiting > 0 or (self.record.slots > 0 and load.running >= self.record.slots)):
            self._full_since = None
        elif self._full_since is None:
            self._full_since = now
        full = self._full_since is not None and now - self._full_since >= MIN_FULL_TIME
        self.rate.record_report(load.tokens_per_second, full, elapsed, now)

    def mark_up(self, now: float) -> None:
        """Record a successful probe."""
        self.problem = ""
        if self.health.link.record_success(now) or self.down:
            self._slow_start_at = now
        self.down = False

    def mark_suspect(self, now: float) -> None:
        """Record a failed probe."""
        self.health.link.record_failure(now, now)

    # called by leases

    def begin_request(self, now: float) -> bool:
        """Return True if the request is a probe."""
        self.in_flight += 1
        self._peak = max(self._peak, self.in_flight)
        return self.health.acquire_probe(now)

    def end_request(self) -> None:
        self.in_flight -= 1

    def record_success(self, sent: float, now: float) -> None:
        self._answered_busy = False
        self.problem = ""
        if self.health.record_success(sent):
            self._slow_start_at = now

    def record_failure(self, failure: AttemptFailed, model: str, sent: float, now: float) -> None:
        self.health.record_failure(failure, sent, now)
        self.problem = failure.text if isinstance(failure, Lost) else ""
        if isinstance(failure, Busy):
            self._answered_busy = True
        elif isinstance(failure, ModelGone) and model:
            self._denied_until[model] = now + DENIAL_DURATION

    def _restarted(self, now: float) -> None:
        self._slow_start_at = now
        self._denied_until.clear()
        self.health.reset(now)


@dataclass(frozen=True, slots=True)
class Replica:
    """A worker as a server of one of its models. `model.name` is the name sent upstream."""

    worker: Worker
    model: ModelInfo
