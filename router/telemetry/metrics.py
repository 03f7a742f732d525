"""What Prometheus reads of this router.

Labels come from known models and registered workers only: a client cannot make new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vllama_pool.router.telemetry.aggregate import Family, families_of
from vllama_pool.router.telemetry.request_record import RequestRecord

UNKNOWN = "unknown"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class WorkerGauges:
    """What is shown of one worker, read at scrape time."""

    worker: str
    up: bool
    in_flight: int
    running: int
    waiting: int
    slots: int
    kv_usage: float
    tokens_per_second: float


class _Workers(Collector):
    def __init__(self, read: Callable[[], Sequence[WorkerGauges]], refusals: Callable[[], int]) -> None:
        self._read = read
        self._refusals = refusals

    def collect(self) -> Iterable[Metric]:
        shown = (
            ("up", "1 while new requests may go to the worker", lambda w: float(w.up)),
            ("in_flight", "requests of this router at the worker", lambda w: float(w.in_flight)),
            ("running", "requests in vLLM's running batch, as reported", lambda w: float(w.running)),
            ("waiting", "requests waiting inside vLLM, as reported", lambda w: float(w.waiting)),
            ("slots", "requests that the worker runs at once", lambda w: float(w.slots)),
            ("kv_usage_ratio", "share of the KV cache in use, as reported", lambda w: w.kv_usage),
            ("tokens_per_second", "generated tokens per second, as reported", lambda w: w.tokens_per_second),
        )
        workers = self._read()
        for name, text, value in shown:
            family = GaugeMetricFamily(f"vllama_worker_{name}", text, labels=["worker"])
            for worker in workers:
                family.add_metric([worker.worker], value(worker))
            yield family
        yield CounterMetricFamily(
            "vllama_refused_records", "worker records refused: signature, address", value=self._refusals()
        )


class Metrics:
    """Counts requests. Owns its registry, so that several routers can live in one process."""

    def __init__(self, workers: Callable[[], Sequence[WorkerGauges]], refusals: Callable[[], int]) -> None:
        """`workers` and `refusals` (worker records refused so far) are read at scrape time."""
        self.registry = CollectorRegistry()
        self.registry.register(_Workers(workers, refusals))
        self._requests = Counter(
            "vllama_requests",
            "requests that have ended",
            ["operation", "model", "status"],
            registry=self.registry,
        )
        self._outcomes = Counter(
            "vllama_outcomes", "how requests ended", ["operation", "outcome"], registry=self.registry
        )
        self._failures = Counter(
            "vllama_attempt_failures", "attempts that gave no answer", ["kind"], registry=self.registry
        )
        self._tokens = Counter("vllama_tokens", "tokens of answers", ["model", "kind"], registry=self.registry)
        self._first = Histogram(
            "vllama_first_event_seconds",
            "from a request's arrival to its first content event",
            ["model"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._total = Histogram(
            "vllama_request_seconds",
            "how long requests took",
            ["model"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.registry_up = Gauge("vllama_registry_up", "1 while the registry answers", registry=self.registry)

    def finished(self, record: RequestRecord) -> None:
        model = record.model or UNKNOWN
        self._requests.labels(record.operation, model, str(record.status)).inc()
        self._outcomes.labels(record.operation, record.outcome).inc()
        for kind in record.failures:
            self._failures.labels(kind).inc()
        if record.first_ms:
            self._first.labels(model).observe(record.first_ms / 1000)
        if record.outcome == "complete":
            self._total.labels(model).observe(record.total_ms / 1000)
            self._tokens.labels(model, "prompt").inc(record.prompt_tokens)
            self._tokens.labels(model, "completion").inc(record.completion_tokens)

    def families(self) -> tuple[Family, ...]:
        """All of it, as of now."""
        return families_of(self.registry.collect())
