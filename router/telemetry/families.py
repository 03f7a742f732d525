"""Metric families as plain numbers, and Prometheus's text format 0.0.4. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import msgspec

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper bounds of a histogram's buckets, in seconds."""
_BUCKET_LABELS = (*map(repr, BUCKETS), "+Inf")
_SPECIAL = {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}
_EXPONENT_DIGITS = 7
"""Numbers with so many digits before the point are written with an exponent, as Prometheus's libraries do."""


class Histogram(msgspec.Struct, array_like=True):
    """One series of durations."""

    counts: list[int]
    """Durations per bucket, not cumulative. The last bucket has no bound."""
    sum: float
    """Seconds."""


class Family(msgspec.Struct, array_like=True):
    """A metric with its series."""

    name: str
    """With the suffix `_total` for a counter."""
    help: str
    type: str
    """"counter", "gauge" or "histogram"."""
    labels: tuple[str, ...] = ()
    series: dict[tuple[str, ...], float | Histogram] = {}
    """By label values, in the order of `labels`."""


def exposition(families: Iterable[Family]) -> str:
    """Return Prometheus's text format."""
    return "".join(line for family in families for line in _lines(family))


def merged(families: Iterable[tuple[str, Iterable[Family]]], label: str) -> list[Family]:
    """Return each family once. Series get a label with the value of their source."""
    by_name: dict[str, Family] = {}
    for value, sources in families:
        for source in sources:
            if (family := by_name.get(source.name)) is None:
                labels = (*source.labels, label)
                family = by_name[source.name] = Family(source.name, source.help, source.type, labels)
            family.series.update({(*values, value): number for values, number in source.series.items()})
    return list(by_name.values())


def _lines(family: Family) -> Iterator[str]:
    name, text = family.name, family.help.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP {name} {text}\n# TYPE {name} {family.type}\n"
    for values, number in family.series.items():
        if isinstance(number, Histogram):
            yield from _histogram_lines(family, values, number)
        else:
            yield f"{name}{_label_text(family.labels, values)} {number_text(number)}\n"


def _histogram_lines(family: Family, values: Sequence[str], histogram: Histogram) -> Iterator[str]:
    labels = (*family.labels, "le")
    for bound, count in zip(_BUCKET_LABELS, accumulate(histogram.counts), strict=True):
        yield f"{family.name}_bucket{_label_text(labels, (*values, bound))} {number_text(count)}\n"
    text = _label_text(family.labels, values)
    yield f"{family.name}_count{text} {number_text(sum(histogram.counts))}\n"
    yield f"{family.name}_sum{text} {number_text(histogram.sum)}\n"


def _label_text(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    return "{" + ",".join(f'{name}="{_quoted(value)}"' for name, value in sorted(zip(names, values, strict=True))) + "}"


def _quoted(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def number_text(number: float) -> str:
    text = repr(float(number))
    whole, point, fraction = text.partition(".")
    if not point or len(whole) < _EXPONENT_DIGITS or number < 0:
        return _SPECIAL.get(text, text)
    digits = f"{whole[1:]}{fraction}".rstrip("0")
    return f"{whole[0]}{'.' if digits else ''}{digits}e+{len(whole) - 1:02}"
