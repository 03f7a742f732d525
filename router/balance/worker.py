"""A worker's live state in this router process: load, health, speed. No I/O; time is passed in."""

from __future__ import annotations

from dataclasses import dataclass

from vllama_pool.router.balance.health import WorkerHealth
from vllama_pool.router.balance.speed import SETTLED, Rate
from vllama_pool.router.errors import AttemptFailed, Busy, ModelGone
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerRecord, WorkerState

SLOW_START = 10.0
"""Seconds until a new, restarted or readmitted worker gets its full share."""

FIRST_WEIGHT = 0.1
"""Its share at first. Without it, an idle cold worker would attract every request."""

KV_FULL = 0.95
"""With a queue in vLLM and more than this share of the KV cache in use, a worker is full whatever its slots."""

REPORT_LAG = 1.0
"""Minimum time in seconds for which a report may still count requests that we have finished."""

DENIED_FOR = 5.0
"""Seconds for which a worker gets no request for a model that it answered 404 for."""


class Worker:
    """One worker as this router sees it. Changed by the pool and by leases, read by policies."""

    def __init__(self, record: WorkerRecord, endpoint: Endpoint, now: float) -> None:
        self.record = record
        self.endpoint = endpoint
        self.last = LoadReport()
        """Its latest load report."""
        self.reported_at: float | None = None
        """Time of the latest report, in monotonic seconds; None before the first."""
        self.in_flight = 0
        """Requests of this process on it."""
        self.down = False
        """True if its beats stopped. It is then chosen only if no other worker is left."""
        self.health = WorkerHealth()
        self.rate = Rate()
        self.speed = record.speed
        """Speed when full, relative to the median of the model's workers. Set by the pool."""
        self._since = now
        self._others = 0
        self._most = self._most_before = 0
        self._counted_since = now
        self._full_since: float | None = None
        self._turned_away = False
        self._denied: dict[str, float] = {}

    def __repr__(self) -> str:
        slots = self.record.slots or "?"
        return f"<Worker {self.id} {self.state}, {self.load}/{slots} busy, {self.in_flight} ours, x{self.speed:.2f}>"

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def state(self) -> WorkerState:
        """The state in its latest report."""
        return self.last.state

    @property
    def serving(self) -> bool:
        """True if its own state is READY."""
        return self.last.state is WorkerState.READY

    @property
    def unresponsive(self) -> bool:
        """True if it is down or its engine sleeps: waiting requests get no answer."""
        return self.down or self.state is WorkerState.SLEEPING

    def is_suspect(self, now: float) -> bool:
        """True if a connection was lost and nothing has succeeded since."""
        return self.health.is_suspect(now)

    def available(self, now: float) -> bool:
        """True if serving, up and healthy. It may be full: that only ranks it last."""
        return self.serving and not self.down and self.health.healthy(now)

    @property
    def load(self) -> int:
        """Requests on it, of all routers: our own in flight, plus other routers' load.

        Other routers' load = reported load - our peak in flight over the last 1-2 s. We use the peak because the report
        lags: vLLM may still count requests that we have finished.
        """
        return self.in_flight + self._others

    @property
    def full(self) -> bool:
        """True if it has no free slot; with unknown slots, if its queue is not empty. Also true after a Busy response,
        until the next report or success."""
        if self._turned_away:
            return True
        if self.record.slots:
            crowded = self.last.waiting > 0 and self.last.kv_usage >= KV_FULL
            return crowded or self.load >= self.record.slots
        return self.last.waiting > 0

    @property
    def beyond_slots(self) -> int:
        """Load minus slots; negative for free slots. With unknown slots: the length of its queue, or -1 if empty."""
        return self.load - self.record.slots if self.record.slots else self.last.waiting or -1

    def weight(self, now: float) -> float:
        """Factor on its speed during slow start, FIRST_WEIGHT to 1."""
        age = now - self._since
        return 1.0 if age >= SLOW_START else FIRST_WEIGHT + (1 - FIRST_WEIGHT) * max(age, 0.0) / SLOW_START

    def score(self, now: float) -> float:
        """Load per speed after one more request: lower is better.

        Measured speed counts only if the worker is full, when the queue moves at that speed. With a free slot the
        request starts at once, and a faster worker frees its slots sooner anyway: counting speed too would square it.
        The declared speed always counts.
        """
        speed = self.speed if self.full else self.record.speed
        return (self.load + 1) * self.health.penalty(now) / (speed * self.weight(now))

    def has(self, model: str, now: float) -> bool:
        """False for DENIED_FOR seconds after it answered 404 for the model."""
        return not self._denied or self._denied.get(model, now) <= now

    # called by the pool

    def renew(self, record: WorkerRecord, endpoint: Endpoint, now: float) -> None:
        """Replace the record. Counters stay; a new generation is a new process."""
        if record.generation != self.record.generation:
            self._restarted(now)
        if record.models != self.record.models:
            self._denied.clear()
        self.record = record
        self.endpoint = endpoint

    def report(self, load: LoadReport, now: float) -> None:
        """Record a load report, which is also a sign of life."""
        if load.restarts > self.last.restarts or (load.state is WorkerState.READY and not self.serving):
            self._restarted(now)
        elif load.state is WorkerState.READY:
            heard = self.health.mark_up()
            if heard or self.down:
                self._since = now
        elapsed = now - self.reported_at if self.reported_at is not None else 0.0
        self.last = load
        self.down = False
        self.reported_at = now
        self._turned_away = False
        if now - self._counted_since >= REPORT_LAG:
            self._most_before, self._most, self._counted_since = self._most, self.in_flight, now
        self._others = max(0, load.running + load.waiting - max(self._most, self._most_before))
        if not (load.waiting > 0 or (self.record.slots > 0 and load.running >= self.record.slots)):
            self._full_since = None
        elif self._full_since is None:
            self._full_since = now
        settled = self._full_since is not None and now - self._full_since >= SETTLED
        self.rate.reported(load.tokens_per_second, settled, elapsed, now)

    def mark_up(self, now: float) -> None:
        """Record a successful probe: it is up and not suspect."""
        if self.health.link.succeeded(now) or self.down:
            self._since = now
        self.down = False

    def mark_suspect(self, now: float) -> None:
        """Record a failed probe."""
        self.health.link.failed(now, now)

    # called by leases

    def dispatched(self, now: float) -> bool:
        """Count a request. Returns True if it is a probe."""
        self.in_flight += 1
        self._most = max(self._most, self.in_flight)
        return self.health.dispatched(now)

    def finished(self) -> None:
        """End a request, whatever its outcome."""
        self.in_flight -= 1

    def answered(self, sent: float, now: float) -> None:
        """Record the success of a request sent at `sent`."""
        self._turned_away = False
        if self.health.answered(sent):
            self._since = now

    def failed(self, failure: AttemptFailed, model: str, sent: float, now: float) -> None:
        """Record the failure of a request for `model` sent at `sent`."""
        self.health.failed(failure, sent, now)
        if isinstance(failure, Busy):
            self._turned_away = True
        elif isinstance(failure, ModelGone) and model:
            self._denied[model] = now + DENIED_FOR

    def _restarted(self, now: float) -> None:
        self._since = now
        self._denied.clear()
        self.health.reset(now)


@dataclass(frozen=True, slots=True)
class Replica:
    """A worker as a server of one of its models. `model.name` is the name sent upstream."""

    worker: Worker
    model: ModelInfo
