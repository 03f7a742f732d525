"""Comparison of counted instructions with the committed baseline. Pure."""

from __future__ import annotations

import msgspec

TOLERANCE = 0.05
"""Of a figure without one of its own. On a busy machine, one run in seven was 7 % above the median per token."""


class Baseline(msgspec.Struct, frozen=True):
    """Instructions by figure. They depend on the version of Python."""

    python: str
    """Major and minor version."""
    figures: dict[str, int]
    tolerance: dict[str, float]
    """Relative, by figure."""


def verdict(baseline: Baseline, counted: dict[str, int]) -> tuple[list[str], bool]:
    """Return one line per figure, and whether none has become worse than the tolerance."""
    lines, passed = [], True
    for name, value in counted.items():
        before = baseline.figures.get(name)
        change = value / before - 1 if before else 0.0
        word = _word(change, baseline.tolerance.get(name, TOLERANCE)) if before else "new"
        passed = passed and word != "WORSE"
        compared = f"{before:>12,} -> " if before else ""
        lines.append(f"{name:28} {compared}{value:>12,} instructions  {change:+7.1%}  {word}")
    return lines, passed


def _word(change: float, tolerance: float) -> str:
    if change > tolerance:
        return "WORSE"
    return "better; update the baseline" if change < -tolerance else "equal"


def without_idle(total: int, seconds: float, idle: float) -> int:
    """Subtract what the router does per second without requests, such as reading beats."""
    return max(0, round(total - idle * seconds))
