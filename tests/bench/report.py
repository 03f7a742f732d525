"""Medians, spreads and ratios of samples, as a Markdown table. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.samples import Sample
from tests.bench.scenarios import SCENARIOS


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table. `offset` is part of every value and not the router's doing."""

    title: str
    scenario: str
    name: str
    scale: float = 1.0
    offset: float = 0.0


FIGURES = (
    Figure("CPU per request with one token, 32 connections (D1), µs", "D1", "cpu_request"),
    Figure("CPU per request, 128 tokens not streamed, 32 connections (D), µs", "D", "cpu_request"),
    Figure("CPU per request, 128 tokens not streamed, 1 connection (E), µs", "E", "cpu_request"),
    Figure("CPU per paced token, 512 streams (S), µs", "S", "cpu_token"),
    Figure("CPU per paced token, 256 streams (B), µs", "B", "cpu_token"),
    Figure("CPU per burst token, 64 streams (C), µs", "C", "cpu_token"),
    Figure("added time to first token p50 (B), ms", "B", "first_p50", 1e-3, SCENARIOS["B"].answers.first / 1000),
    Figure("added time to first token p99 (B), ms", "B", "first_p99", 1e-3, SCENARIOS["B"].answers.first / 1000),
    Figure("added token latency p50 (S), ms", "S", "token_p50", 1e-3),
    Figure("added token latency p99 (S), ms", "S", "token_p99", 1e-3),
    Figure("added time between tokens p99 (S), ms", "S", "gap_p99", 1e-3, SCENARIOS["S"].answers.delay / 1000),
    Figure("requests per second (D1)", "D1", "rate"),
    Figure("memory per open stream (B), KiB", "B", "memory"),
)


@dataclass(frozen=True, slots=True)
class Spread:
    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{short(self.median)} ({short(self.low)}–{short(self.high)})"


def spread(values: Sequence[float]) -> Spread | None:
    """Return None without values."""
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def short(value: float) -> str:
    """Three significant digits, without an exponent."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def values(samples: Sequence[Sample], contender: str, figure: Figure) -> list[float]:
    return [
        each.figures[figure.name] * figure.scale - figure.offset
        for each in samples
        if (each.contender, each.scenario) == (contender, figure.scenario)
        if figure.name in each.figures
    ]


def ratio(value: Spread | None, reference: Spread | None) -> str:
    return f"{value.median / reference.median:.2f}" if value and reference and reference.median > 0 else "–"


def table(samples: Sequence[Sample], contenders: Sequence[str], reference: str | None) -> str:
    """Return one row per measured figure. Contenders other than `reference` have a column with the ratio to it."""
    head = ["figure", *(title for name in contenders for title in _titles(name, reference))]
    lines = [_row(head), _row(["---"] * len(head))]
    for figure in FIGURES:
        spreads = {name: spread(values(samples, name, figure)) for name in contenders}
        if not any(spreads.values()):
            continue
        base = spreads.get(reference) if reference else None
        cells = [figure.title]
        for name in contenders:
            cells.append(str(spreads[name] or "–"))
            cells += [] if name == reference or reference is None else [ratio(spreads[name], base)]
        lines.append(_row(cells))
    return "\n".join(lines)


def _titles(name: str, reference: str | None) -> list[str]:
    return [name] if name == reference or reference is None else [name, f"to {reference}"]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def dropped(samples: Sequence[Sample], most_other: float) -> list[str]:
    """Say how many runs count, and why the others do not."""
    bad = [each for each in samples if not each.counts(most_other)]
    busy = max((each.other for each in samples if each.counts(most_other)), default=0.0)
    lines = [f"{len(samples) - len(bad)} of {len(samples)} runs count; other programs used at most {busy:.2f} cores"]
    return lines + [
        f"dropped: {each.contender} {each.scenario}, {each.problem or f'other programs used {each.other:.2f} cores'}"
        for each in bad
    ]
