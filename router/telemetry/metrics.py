"""The router's metrics, as plain numbers.

Labels are known models and registered workers only, so that clients cannot create series.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from vllama_pool.router.balance.worker import Worker
from vllama_pool.router.telemetry.families import BUCKETS, Family, Histogram
from vllama_pool.router.telemetry.request_record import RequestRecord
from vllama_pool.router.telemetry.routing_file import RoutingFileState, routing_file_families
from vllama_pool.router.telemetry.usage import Usage, UsageByKey, error_class

UNKNOWN = "unknown"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BOUNDS = tuple(bound * 1000 for bound in BUCKETS)


@dataclass(frozen=True, slots=True)
class Readings:
    """Values that are read at scrape time."""

    workers: Iterable[Worker]
    now: Callable[[], float]
    """Monotonic seconds, on the pool's clock."""
    registry_up: Callable[[], bool]
    refused_records: Callable[[], int]
    dropped_log_lines: Callable[[], int]
    queues: Callable[[], Iterable[tuple[str, QueueState]]] = tuple
    """By the name of an entry."""
    worker_queues: Callable[[], Iterable[tuple[str, WorkerQueueState]]] = tuple
    """By the name of a model."""
    wanted: Callable[[], Iterable[tuple[str, bool]]] = tuple
    """Entries that may be without a worker, and whether one is wanted."""
    shadows: Callable[[], Iterable[Family]] = tuple
    """Of copies to shadow targets."""
    canaries: Callable[[], Iterable[Family]] = tuple
    leases: Callable[[], Iterable[Family]] = tuple
    connections: Callable[[], Iterable[Family]] = tuple
    """Of clients."""
    panics: Callable[[float], Iterable[tuple[str, bool]]] = lambda now: ()
    """Served models, and whether breakers are ignored for them."""
    routing_file: Callable[[], RoutingFileState | None] = lambda: None
    poison: Callable[[], tuple[int, int]] = lambda: (0, 0)
    """Refusals so far of requests that crash engines, and different requests that are refused now."""


class QueueState(Protocol):
    """A queue in front of a limited number of requests."""

    @property
    def waiting(self) -> int: ...

    @property
    def in_progress(self) -> int: ...


class WorkerQueueState(Protocol):
    """A queue in front of a model's workers."""

    @property
    def waiting(self) -> int: ...

    @property
    def refused(self) -> int: ...

    @property
    def seconds_to_drain(self) -> float: ...


class _Durations:
    """A histogram of milliseconds."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def add(self, milliseconds: float) -> None:
        self.counts[bisect_left(_BOUNDS, milliseconds)] += 1
        self.sum += milliseconds


class _Tally:
    """Counts of the requests with one operation, model, status and outcome."""

    __slots__ = ("completion_tokens", "discarded_tokens", "first", "prompt_tokens", "requests", "total")

    def __init__(self, first: _Durations, total: _Durations | None) -> None:
        """`first` and `total` are the model's."""
        self.requests = self.prompt_tokens = self.completion_tokens = self.discarded_tokens = 0
        self.first, self.total = first, total


class RouterMetrics:
    """Counts finished requests for workers, and refusals."""

    def __init__(self, readings: Readings, refusal_reasons: Iterable[str] = ()) -> None:
        """`refusal_reasons` are shown from the start, as 0."""
        self._readings = readings
        self._tallies: dict[tuple[str, str, int, str], _Tally] = {}
        self._first: dict[str, _Durations] = {}
        self._total: dict[str, _Durations] = {}
        self._queued: dict[str, _Durations] = {}
        self._failures = Counter[str]()
        self._resumed = Counter[str]()
        self._fallbacks = Counter[tuple[str, ...]]()
        self._refusals = Counter(dict.fromkeys(refusal_reasons, 0))
        self.usage = UsageByKey()

    def finished(self, record: RequestRecord) -> None:
        key = record.operation, record.model, record.status, record.outcome
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = self._new_tally(record.model or UNKNOWN, record.outcome)
        tally.requests += 1
        tally.prompt_tokens += record.prompt_tokens
        tally.completion_tokens += record.completion_tokens
        if milliseconds := record.first_ms:
            first = tally.first
            first.counts[bisect_left(_BOUNDS, milliseconds)] += 1
            first.sum += milliseconds
        if (total := tally.total) is not None:
            milliseconds = record.total_ms
            total.counts[bisect_left(_BOUNDS, milliseconds)] += 1
            total.sum += milliseconds
        if record.queue_ms:
            self._queued.setdefault(record.model or UNKNOWN, _Durations()).add(record.queue_ms)
        if record.discarded_tokens:
            tally.discarded_tokens += record.discarded_tokens
        if record.failures:
            self._failures.update(record.failures)
            if record.resumed:
                self._resumed[record.model or UNKNOWN] += record.resumed
        for move in record.fallbacks:
            self._fallbacks[record.model, move.target, move.reason] += 1
        if record.client:
            self.usage.finished(record)

    def refused(self, reason: str) -> None:
        self._refusals[reason] += 1

    def families(self) -> list[Family]:
        """Return all metrics as they are now."""
        self.usage.set_anonymous(self._finished())
        return [
            *self._read(),
            *self._readings.shadows(),
            *self._readings.canaries(),
            *self._readings.leases(),
            *self._readings.connections(),
            *self._counted(),
            *self.usage.families(),
        ]

    def _finished(self) -> Usage:
        """Return the counts of all requests."""
        usage = Usage()
        for (_, _, status, outcome), tally in self._tallies.items():
            usage.requests += tally.requests
            usage.prompt_tokens += tally.prompt_tokens
            usage.completion_tokens += tally.completion_tokens
            if outcome != "complete":
                usage.errors[error_class(status, outcome)] += tally.requests
        return usage

    def _new_tally(self, model: str, outcome: str) -> _Tally:
        first = self._first.setdefault(model, _Durations())
        return _Tally(first, self._total.setdefault(model, _Durations()) if outcome == "complete" else None)

    def _read(self) -> Iterator[Family]:
        readings = self._readings
        yield from worker_gauges(list(readings.workers), readings.now())
        yield Family(
            "vllama_registry_up", "1 while the registry answers.", "gauge", series={(): float(readings.registry_up())}
        )
        yield Family(
            "vllama_refused_records_total",
            "Worker records refused for their signature or address.",
            "counter",
            series={(): readings.refused_records()},
        )
        yield Family(
            "vllama_dropped_log_lines_total",
            "Request log lines lost because their reader was too slow.",
            "counter",
            series={(): readings.dropped_log_lines()},
        )
        yield Family(
            "vllama_model_panic",
            "1 while less than half of the model's workers are healthy, so that breakers are ignored.",
            "gauge",
            ("model",),
            {(name,): float(panics) for name, panics in readings.panics(readings.now())},
        )
        refusals, refused = readings.poison()
        yield Family(
            "vllama_poison_refused_total",
            "Requests refused because they crash engines.",
            "counter",
            series={(): refusals},
        )
        yield Family("vllama_poison_digests", "Different requests that are refused now.", "gauge", series={(): refused})
        yield from queue_gauges(readings.queues(), readings.worker_queues())
        yield Family(
            "vllama_model_wanted",
            "1 if a model with scale.from_zero needs a worker: requests wait, or came within scale.hold.",
            "gauge",
            ("model",),
            {(name,): float(wanted) for name, wanted in readings.wanted()},
        )
        if (state := readings.routing_file()) is not None:
            yield from routing_file_families(state)

    def _counted(self) -> Iterator[Family]:
        requests, outcomes, tokens = Counter[tuple[str, ...]](), Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
        for (operation, known, status, outcome), tally in self._tallies.items():
            model = known or UNKNOWN
            requests[operation, model, str(status)] += tally.requests
            outcomes[operation, outcome] += tally.requests
            tokens[model, "prompt", outcome] += tally.prompt_tokens
            tokens[model, "completion", outcome] += tally.completion_tokens
            tokens[model, "completion", "discarded"] += tally.discarded_tokens
        yield _counter("vllama_requests_total", "Finished requests.", ("operation", "model", "status"), requests)
        yield _counter("vllama_outcomes_total", "Finished requests by outcome.", ("operation", "outcome"), outcomes)
        yield _counter("vllama_attempt_failures_total", "Failed attempts.", ("kind",), _by_one_label(self._failures))
        yield _counter(
            "vllama_resumed_total",
            "Answers that another worker continued in mid-stream.",
            ("model",),
            _by_one_label(self._resumed),
        )
        yield _counter(
            "vllama_fallbacks_total",
            "Moves of requests to another model, by the requested one and the reason.",
            ("model", "target", "reason"),
            self._fallbacks,
        )
        yield _counter(
            "vllama_refusals_total",
            "Requests refused before any handler, by reason.",
            ("reason",),
            _by_one_label(self._refusals),
        )
        yield _counter(
            "vllama_tokens_total",
            "Tokens by the outcome of their request. Of an incomplete answer the content events are counted. "
            "Discarded tokens were generated by attempts that failed.",
            ("model", "kind", "outcome"),
            +tokens,
        )
        yield _histogram(
            "vllama_first_event_seconds", "Time from a request's arrival to its first content event.", self._first
        )
        yield _histogram("vllama_request_seconds", "Duration of completed requests.", self._total)
        yield _histogram(
            "vllama_queue_seconds", "Time that requests waited because of limits, refused ones too.", self._queued
        )


def worker_gauges(workers: Iterable[Worker], now: float) -> Iterator[Family]:
    gauges: tuple[tuple[str, str, Callable[[Worker], float]], ...] = (
        ("up", "1 while new requests may go to the worker.", lambda worker: worker.is_available(now)),
        ("in_flight", "Requests of this router in the worker.", lambda worker: worker.in_flight),
        ("running", "Requests in vLLM's running batch, as reported.", lambda worker: worker.last_report.running),
        ("waiting", "Requests waiting inside vLLM, as reported.", lambda worker: worker.last_report.waiting),
        ("slots", "Requests that the worker runs at once.", lambda worker: worker.record.slots),
        ("kv_usage_ratio", "Share of the KV cache in use, as reported.", lambda worker: worker.last_report.kv_usage),
        (
            "tokens_per_second",
            "Generated tokens per second, as reported.",
            lambda worker: worker.last_report.tokens_per_second,
        ),
    )
    for name, text, value in gauges:
        yield Family(
            f"vllama_worker_{name}",
            text,
            "gauge",
            ("worker",),
            {(worker.id,): float(value(worker)) for worker in workers},
        )


def queue_gauges(
    queues: Iterable[tuple[str, QueueState]], worker_queues: Iterable[tuple[str, WorkerQueueState]]
) -> Iterator[Family]:
    label = ("model",)
    waiting = Family("vllama_queue_waiting", "Requests that wait: for a place, or for a worker.", "gauge", label)
    in_progress = Family("vllama_queue_in_progress", "Requests within limits.concurrency.", "gauge", label)
    refused = Family(
        "vllama_queue_refused_total", "Requests that found no room in the queue, or waited too long.", "counter", label
    )
    drain = Family("vllama_queue_drain_seconds", "Time in which those that wait for a worker get one.", "gauge", label)
    totals = Counter[str]()
    for name, queue in queues:
        totals[name] += queue.waiting
        in_progress.series[name,] = float(queue.in_progress)
    for name, workers in worker_queues:
        totals[name] += workers.waiting
        refused.series[name,] = float(workers.refused)
        drain.series[name,] = workers.seconds_to_drain
    waiting.series.update({(name,): float(count) for name, count in totals.items()})
    yield from (waiting, in_progress, refused, drain)


def _counter(name: str, text: str, labels: tuple[str, ...], counts: Counter[tuple[str, ...]]) -> Family:
    return Family(name, text, "counter", labels, {**counts})


def _by_one_label(counts: Counter[str]) -> Counter[tuple[str, ...]]:
    return Counter({(value,): count for value, count in counts.items()})


def _histogram(name: str, text: str, by_model: dict[str, _Durations]) -> Family:
    """Return the family without the models of which nothing was observed."""
    family = Family(name, text, "histogram", ("model",))
    for model, seen in by_model.items():
        if any(seen.counts):
            family.series[model,] = Histogram(list(seen.counts), seen.sum / 1000)
    return family
