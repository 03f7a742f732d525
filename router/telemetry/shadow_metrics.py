"""Counts copies of requests to shadow targets, by entry and target, apart from the clients' requests."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

from vllama_pool.router.telemetry.families import BUCKETS, Family, Histogram
from vllama_pool.router.telemetry.request_record import RequestRecord

_BOUNDS = tuple(bound * 1000 for bound in BUCKETS)
_LABELS = ("model", "target")
_Labels = tuple[str, ...]


class ShadowMetrics:
    """The labels are names of the routing file."""

    def __init__(self) -> None:
        self._sent = Counter[_Labels]()
        self._failed = Counter[_Labels]()
        self._stopped = Counter[_Labels]()
        self._skipped = Counter[_Labels]()
        self._tokens = Counter[_Labels]()
        self._first: dict[_Labels, float | Histogram] = {}
        self._seconds: dict[_Labels, float | Histogram] = {}

    def sent(self, entry: str, target: str) -> None:
        """Call `ended` once after it."""
        self._sent[entry, target] += 1

    def skipped(self, entry: str, target: str, reason: str) -> None:
        self._skipped[entry, target, reason] += 1

    def ended(self, entry: str, target: str, record: RequestRecord) -> None:
        """Count by the record's outcome: "complete", "stopped", or a failure."""
        pair = entry, target
        self._tokens[entry, target, "prompt"] += record.prompt_tokens
        self._tokens[entry, target, "completion"] += record.completion_tokens + record.discarded_tokens
        if record.first_ms:
            _observe(self._first, pair, record.first_ms)
        if record.outcome == "complete":
            _observe(self._seconds, pair, record.total_ms)
        elif record.outcome == "stopped":
            self._stopped[pair] += 1
        else:
            self._failed[pair] += 1

    def families(self) -> Iterator[Family]:
        yield _counter("sent", "Copies sent to a shadow target.", _LABELS, self._sent)
        yield _counter("skipped", "Copies not sent, by reason.", (*_LABELS, "reason"), self._skipped)
        yield _counter("failed", "Copies without a complete answer.", _LABELS, self._failed)
        yield _counter("stopped", "Copies ended because their client left.", _LABELS, self._stopped)
        yield _counter("tokens", "Tokens of copies.", (*_LABELS, "kind"), self._tokens)
        first = "Time from the start of a copy to its first content event."
        yield Family("vllama_shadow_first_event_seconds", first, "histogram", _LABELS, {**self._first})
        total = "Duration of copies with a complete answer."
        yield Family("vllama_shadow_request_seconds", total, "histogram", _LABELS, {**self._seconds})


def _observe(histograms: dict[_Labels, float | Histogram], pair: _Labels, milliseconds: float) -> None:
    histogram = histograms.setdefault(pair, Histogram([0] * (len(BUCKETS) + 1), 0.0))
    assert isinstance(histogram, Histogram)
    histogram.counts[bisect_left(_BOUNDS, milliseconds)] += 1
    histogram.sum += milliseconds / 1000


def _counter(name: str, text: str, labels: tuple[str, ...], counts: Counter[_Labels]) -> Family:
    return Family(f"vllama_shadow_{name}_total", text, "counter", labels, {**counts})
