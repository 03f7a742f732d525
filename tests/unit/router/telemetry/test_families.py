"""Prometheus's text format, compared with prometheus_client's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as PrometheusHistogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from vllama_pool.router.telemetry.families import BUCKETS, Family, Histogram, exposition, merged, number_text

VALUES = st.one_of(
    st.floats(), st.integers(0, 10**17).map(float), st.sampled_from([0.0, -0.0, 999_999.5, 1e6, 1234567.25, 1e15, 1e16])
)
LABEL_VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


class Collected:
    """The part of a CollectorRegistry that `generate_latest` uses."""

    def __init__(self, *metrics: Metric) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


@given(
    st.sampled_from(["counter", "gauge"]),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.dictionaries(st.tuples(LABEL_VALUES, LABEL_VALUES), VALUES, max_size=4),
)
def test_counters_and_gauges_are_written_as_prometheus_client_writes_them(
    kind: str, text: str, series: dict[tuple[str, str], float]
) -> None:
    labels = ("zone", "model")
    family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
    expected = family("vllama_tokens", text, labels=labels)
    for values, number in series.items():
        expected.add_metric(values, number)
    name = "vllama_tokens_total" if kind == "counter" else "vllama_tokens"
    assert exposition([Family(name, text, kind, labels, {**series})]) == generate_latest(Collected(expected)).decode()  # type: ignore[arg-type]


@given(LABEL_VALUES, st.lists(st.floats(0, 1000), max_size=20))
def test_histograms_are_written_as_prometheus_client_writes_them(model: str, durations: list[float]) -> None:
    registry = CollectorRegistry()
    expected = PrometheusHistogram("vllama_seconds", "Time.", ["model"], buckets=BUCKETS, registry=registry)
    histogram = Histogram([0] * (len(BUCKETS) + 1), 0.0)
    for duration in durations:
        expected.labels(model).observe(duration)
        histogram.counts[next((i for i, bound in enumerate(BUCKETS) if duration <= bound), len(BUCKETS))] += 1
        histogram.sum += duration
    series = {(model,): histogram} if durations else {}
    page = exposition([Family("vllama_seconds", "Time.", "histogram", ("model",), {**series})])
    assert page.split("\n") == list(without_created(generate_latest(registry).decode()))


def without_created(page: str) -> Iterator[str]:
    return (line for line in page.split("\n") if "_created" not in line)


@pytest.mark.parametrize(("number", "text"), [(math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN")])
def test_special_numbers_have_prometheus_names(number: float, text: str) -> None:
    assert number_text(number) == text


def test_a_merged_family_has_the_series_of_all_sources_with_a_label() -> None:
    def source(count: int) -> list[Family]:
        return [Family("requests_total", "Requests.", "counter", ("model",), {("m",): count})]

    (family,) = merged([("0", source(4)), ("2", source(7))], "process")
    assert family.labels == ("model", "process")
    assert family.series == {("m", "0"): 4, ("m", "2"): 7}


def test_families_survive_their_encoding() -> None:
    families = [
        Family("a", "A.", "gauge", ("x", "y"), {("1", "2"): 0.5}),
        Family("b", "B.", "histogram", (), {(): Histogram([1, 2], 0.25)}),
    ]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(families), type=list[Family]) == families
