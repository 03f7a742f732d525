"""The live half of a worker: what this router process knows of it beyond its record.

All of it is plain state of one event loop. Nothing here waits, and time comes in as an argument.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllama_pool.router.balance.health import Health
from vllama_pool.router.balance.speed import SETTLED, Rate
from vllama_pool.router.errors import AttemptFailed, Busy, ModelGone
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.registry.record import Load, ModelInfo, WorkerRecord, WorkerState

SLOW_START = 10.0
"""Seconds over which a new, restarted or readmitted worker comes to its full share."""

FIRST_WEIGHT = 0.1
"""Its share at the beginning. A cold worker with nothing to do would else attract everything."""

KV_FULL = 0.95
"""Above this share of the KV cache a queue inside vLLM means that there is no room, whatever the slots say."""

LINGERING = 1.0
"""Seconds, at least, for which a report may still count requests of ours that have ended: vLLM takes a moment to drop
one whose client has left, and its page to be read."""

GONE_FOR = 5.0
"""Seconds for which a model that a worker denied having is not asked of it again."""


class Worker:
    """One worker as this router sees it. Made and changed by the pool and by leases; read by policies."""

    def __init__(self, record: WorkerRecord, endpoint: Endpoint, now: float) -> None:
        self.record = record
        self.endpoint = endpoint
        self.last = Load()
        """Its latest report."""
        self.reported_at: float | None = None
        """When that came, on the router's monotonic clock; None before the first."""
        self.in_flight = 0
        """This process's own requests in it."""
        self.down = False
        """Its beats have stopped. It is asked only when nobody else is left."""
        self.health = Health()
        self.rate = Rate()
        self.speed = record.speed
        """When full, relative to the median of the model's workers; the pool keeps it."""
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
        """Where it says that it stands."""
        return self.last.state

    @property
    def serving(self) -> bool:
        """Takes new requests by its own account. False while starting, restarting, draining or stopped."""
        return self.last.state is WorkerState.READY

    @property
    def unresponsive(self) -> bool:
        """Its beats have stopped, or its engine sleeps: requests that wait in it are not answered."""
        return self.down or self.state is WorkerState.SLEEPING

    def is_suspect(self, now: float) -> bool:
        """A connection to it was lost and nothing good has been heard of it since."""
        return self.health.is_suspect(now)

    def available(self, now: float) -> bool:
        """May be chosen: serving, heard of, and in good health. Being full only ranks it last."""
        return self.serving and not self.down and self.health.healthy(now)

    @property
    def load(self) -> int:
        """Requests in it, of all routers: our own now, and those of others as of its last report.

        What is reported beyond the most that were ours lately must be of others. Our count at the moment when the
        report comes would not do: a report is older than that, and vLLM still counts requests that have just ended.
        They would pass for somebody else's until the next report, and a request be queued here with a slot free.
        """
        return self.in_flight + self._others

    @property
    def full(self) -> bool:
        """Without a free slot. Where the slots are unknown: while anything waits in it. In any case once it has
        turned a request away, until its next report or answer."""
        if self._turned_away:
            return True
        if self.record.slots:
            crowded = self.last.waiting > 0 and self.last.kv_usage >= KV_FULL
            return crowded or self.load >= self.record.slots
        return self.last.waiting > 0

    @property
    def beyond_slots(self) -> int:
        """Requests in it for which it has no slot; negative for free slots. Where the slots are unknown: those that
        it reports as waiting, and one free slot while there are none."""
        return self.load - self.record.slots if self.record.slots else self.last.waiting or -1

    def weight(self, now: float) -> float:
        """Share of its speed that counts while it starts slowly, FIRST_WEIGHT to 1."""
        age = now - self._since
        return 1.0 if age >= SLOW_START else FIRST_WEIGHT + (1 - FIRST_WEIGHT) * max(age, 0.0) / SLOW_START

    def score(self, now: float) -> float:
        """How crowded one more request would find it: lower is better.

        Where there is a free slot the request starts at once, on a faster worker with a faster stream: counting
        measured speed there, too, would square it, and a worker twice as fast would be given four times the
        tokens. What its operator declared still counts. Where the request must queue, the queue moves with the
        worker's speed.
        """
        speed = self.speed if self.full else self.record.speed
        return (self.load + 1) * self.health.deterrent(now) / (speed * self.weight(now))

    def has(self, model: str, now: float) -> bool:
        """Whether it can be asked for a model: False for a while after it denied having it."""
        return not self._denied or self._denied.get(model, now) <= now

    # what the pool hears of it

    def renew(self, record: WorkerRecord, endpoint: Endpoint, now: float) -> None:
        """Take a newer record of the same worker. Counters stay; a new generation is a new process."""
        if record.generation != self.record.generation:
            self._restarted(now)
        if record.models != self.record.models:
            self._denied.clear()
        self.record = record
        self.endpoint = endpoint

    def report(self, load: Load, now: float) -> None:
        """Take its latest report, which is also a sign of life."""
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
        if now - self._counted_since >= LINGERING:
            self._most_before, self._most, self._counted_since = self._most, self.in_flight, now
        self._others = max(0, load.running + load.waiting - max(self._most, self._most_before))
        if not (load.waiting > 0 or (self.record.slots > 0 and load.running >= self.record.slots)):
            self._full_since = None
        elif self._full_since is None:
            self._full_since = now
        settled = self._full_since is not None and now - self._full_since >= SETTLED
        self.rate.reported(load.tokens_per_second, settled, elapsed, now)

    def mark_up(self, now: float) -> None:
        """This router has reached it itself: whatever was suspected is over."""
        if self.health.link.succeeded(now) or self.down:
            self._since = now
        self.down = False

    def mark_suspect(self, now: float) -> None:
        """It could not be reached."""
        self.health.link.failed(now, now)

    # what leases tell of it

    def dispatched(self, now: float) -> bool:
        """A request goes out to it. True if that is a probe."""
        self.in_flight += 1
        self._most = max(self._most, self.in_flight)
        return self.health.dispatched(now)

    def finished(self) -> None:
        """A request to it is over, however it ended."""
        self.in_flight -= 1

    def answered(self, sent: float, now: float) -> None:
        """A request sent at `sent` is being answered, or was."""
        self._turned_away = False
        if self.health.answered(sent):
            self._since = now

    def failed(self, failure: AttemptFailed, model: str, sent: float, now: float) -> None:
        """A request sent at `sent` for one of its models failed."""
        self.health.failed(failure, sent, now)
        if isinstance(failure, Busy):
            self._turned_away = True
        elif isinstance(failure, ModelGone) and model:
            self._denied[model] = now + GONE_FOR

    def _restarted(self, now: float) -> None:
        self._since = now
        self._denied.clear()
        self.health.reset(now)


@dataclass(frozen=True, slots=True)
class Replica:
    """A worker, and which of its models is meant. `model.name` goes upstream."""

    worker: Worker
    model: ModelInfo
