"""The router's Prometheus metrics.

Labels are known models and registered workers only, so that clients cannot create series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from vllama_pool.router.balance.worker import Worker
from vllama_pool.router.telemetry.aggregate import metrics_text
from vllama_pool.router.telemetry.request_record import RequestRecord

UNKNOWN = "unknown"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Readings:
    """Values that are read at scrape time."""

    workers: Iterable[Worker]
    now: Callable[[], float]
    """Monotonic seconds, on the pool's clock."""
    registry_up: Callable[[], bool]
    refused_records: Callable[[], int]
    dropped_log_lines: Callable[[], int]


class _ReadingsCollector(Collector):
    def __init__(self, readings: Readings) -> None:
        self._readings = readings

    def collect(self) -> Iterable[Metric]:
        yield from self._worker_gauges()
        readings = self._readings
        yield GaugeMetricFamily(
            "vllama_registry_up", "1 while the registry answers.", value=float(readings.registry_up())
        )
        yield CounterMetricFamily(
            "vllama_refused_records",
            "Worker records refused for their signature or address.",
            value=readings.refused_records(),
        )
        yield CounterMetricFamily(
            "vllama_dropped_log_lines",
            "Request log lines lost because their reader was too slow.",
            value=readings.dropped_log_lines(),
        )

    def _worker_gauges(self) -> Iterable[Metric]:
        now = self._readings.now()
        gauges: tuple[tuple[str, str, Callable[[Worker], float]], ...] = (
            ("up", "1 while new requests may go to the worker.", lambda worker: worker.is_available(now)),
            ("in_flight", "Requests of this router in the worker.", lambda worker: worker.in_flight),
            ("running", "Requests in vLLM's running batch, as reported.", lambda worker: worker.last_report.running),
            ("waiting", "Requests waiting inside vLLM, as reported.", lambda worker: worker.last_report.waiting),
            ("slots", "Requests that the worker runs at once.", lambda worker: worker.record.slots),
            (
                "kv_usage_ratio",
                "Share of the KV cache in use, as reported.",
                lambda worker: worker.last_report.kv_usage,
            ),
            (
                "tokens_per_second",
                "Generated tokens per second, as reported.",
                lambda worker: worker.last_report.tokens_per_second,
            ),
        )
        workers = list(self._readings.workers)
        for name, text, value in gauges:
            family = GaugeMetricFamily(f"vllama_worker_{name}", text, labels=["worker"])
            for worker in workers:
                family.add_metric([worker.id], float(value(worker)))
            yield family


_M = TypeVar("_M", bound=MetricWrapperBase)


class _Series(Generic[_M]):
    """A metric's series by their label values, looked up faster than in prometheus_client."""

    def __init__(self, metric: _M) -> None:
        self._metric = metric
        self._series: dict[tuple[str, ...], _M] = {}

    def of(self, *values: str) -> _M:
        if (series := self._series.get(values)) is None:
            series = self._series[values] = self._metric.labels(*values)
        return series


class RouterMetrics:
    """Counts finished requests for workers, and refusals.

    Owns its registry, so that several routers can run in one process.
    """

    def __init__(self, readings: Readings, refusal_reasons: Iterable[str] = ()) -> None:
        """`refusal_reasons` are shown from the start, as 0."""
        self._registry = registry = CollectorRegistry()
        registry.register(_ReadingsCollector(readings))
        requests = Counter("vllama_requests", "Finished requests.", ["operation", "model", "status"], registry=registry)
        outcomes = Counter(
            "vllama_outcomes", "Finished requests by outcome.", ["operation", "outcome"], registry=registry
        )
        self._failures = Counter("vllama_attempt_failures", "Failed attempts.", ["kind"], registry=registry)
        self._refusals = Counter(
            "vllama_refusals", "Requests refused before any handler, by reason.", ["reason"], registry=registry
        )
        for reason in refusal_reasons:
            self._refusals.labels(reason)
        tokens = Counter(
            "vllama_tokens",
            "Tokens by the outcome of their request. Of an incomplete answer the content events are counted. "
            "Discarded tokens were generated by attempts that failed.",
            ["model", "kind", "outcome"],
            registry=registry,
        )
        first = Histogram(
            "vllama_first_event_seconds",
            "Time from a request's arrival to its first content event.",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        total = Histogram(
            "vllama_request_seconds",
            "Duration of completed requests.",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )

        self._requests, self._outcomes, self._tokens = _Series(requests), _Series(outcomes), _Series(tokens)
        self._first, self._total = _Series(first), _Series(total)

    def finished(self, record: RequestRecord) -> None:
        model = record.model or UNKNOWN
        self._requests.of(record.operation, model, str(record.status)).inc()
        self._outcomes.of(record.operation, record.outcome).inc()
        for kind in record.failures:
            self._failures.labels(kind).inc()
        if record.first_ms:
            self._first.of(model).observe(record.first_ms / 1000)
        if record.outcome == "complete":
            self._total.of(model).observe(record.total_ms / 1000)
        self._count_tokens(model, record)

    def refused(self, reason: str) -> None:
        self._refusals.labels(reason).inc()

    def _count_tokens(self, model: str, record: RequestRecord) -> None:
        counts = (
            ("prompt", record.outcome, record.prompt_tokens),
            ("completion", record.outcome, record.completion_tokens),
            ("completion", "discarded", record.discarded_tokens),
        )
        for kind, outcome, tokens in counts:
            if tokens:
                self._tokens.of(model, kind, outcome).inc(tokens)

    def text(self) -> str:
        """Return all metrics in Prometheus's text format."""
        return metrics_text(list(self._registry.collect()))
