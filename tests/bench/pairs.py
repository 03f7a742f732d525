"""Comparison of rounds through the router with rounds directly on vLLM, pair by pair. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.bench.report import spread

MOST_SLOWER = 0.01
"""Part of the throughput that the router may cost."""
MOST_LATER = 2.0
"""Milliseconds that the first token may come later."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two ways in a pair."""

    rate: float
    """Tokens per second of several streams at once."""
    first: float
    """Seconds until the first token of such streams, the mean."""
    alone: float
    """Seconds until the first token of a stream that is alone, the median of several."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Both ways, one right after the other."""

    direct: Side
    routed: Side
    other: float
    """Cores that other programs used meanwhile."""


def comparison(pairs: Sequence[Pair], most_other: float) -> list[str]:
    """Return a table and a verdict over the pairs that count."""
    counted = [pair for pair in pairs if pair.other <= most_other]
    busy = max((pair.other for pair in counted), default=0.0)
    lines = [f"{len(counted)} of {len(pairs)} pairs count; other programs used at most {busy:.2f} cores in them"]
    if not counted:
        return lines
    rows = [_rate(counted), _first(counted), _alone(counted)]
    ratio, later, later_alone = (statistics.median(row.compared) for row in rows)
    return [
        *lines,
        "",
        "| figure | direct | through the router | in each pair |",
        "| --- | --- | --- | --- |",
        *map(str, rows),
        "",
        f"throughput: {ratio:.4f} of direct, {_word(ratio >= 1 - MOST_SLOWER)} {MOST_SLOWER:.0%}",
        f"first token: {later:+.2f} ms, {_word(later <= MOST_LATER)} {MOST_LATER:g} ms",
        f"first token of a stream alone: {later_alone:+.2f} ms, {_word(later_alone <= MOST_LATER)} {MOST_LATER:g} ms",
    ]


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    direct: list[float]
    routed: list[float]
    compared: list[float]
    """Of each pair."""
    digits: str

    def __str__(self) -> str:
        middle, low, high = (format(each(self.compared), self.digits) for each in (statistics.median, min, max))
        return f"| {self.title} | {spread(self.direct)} | {spread(self.routed)} | {middle} ({low} to {high}) |"


def _rate(pairs: Sequence[Pair]) -> Row:
    direct = [pair.direct.rate for pair in pairs]
    routed = [pair.routed.rate for pair in pairs]
    ratios = [through / alone for through, alone in zip(routed, direct, strict=True)]
    return Row("tokens per second", direct, routed, ratios, ".4f")


def _first(pairs: Sequence[Pair]) -> Row:
    return _times("time to first token, ms", pairs, lambda side: side.first)


def _alone(pairs: Sequence[Pair]) -> Row:
    return _times("time to first token of a stream alone, ms", pairs, lambda side: side.alone)


def _times(title: str, pairs: Sequence[Pair], seconds: Callable[[Side], float]) -> Row:
    direct = [seconds(pair.direct) * 1000 for pair in pairs]
    routed = [seconds(pair.routed) * 1000 for pair in pairs]
    later = [through - alone for through, alone in zip(routed, direct, strict=True)]
    return Row(title, direct, routed, later, "+.2f")


def _word(within: bool) -> str:
    return "within" if within else "NOT within"
