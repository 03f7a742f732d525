"""Line charts as SVG: panels side by side, with a logarithmic x axis, or a linear one for time. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 330, 250
"""Of a panel, in pixels."""
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 44, 46
"""Margins of a panel."""
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37")
"""Readable on light and dark pages; the background is white."""


@dataclass(frozen=True, slots=True)
class Series:
    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    linear: bool = False
    """A linear x axis, and no dots."""


def svg(panels: Sequence[Panel]) -> str:
    width = WIDTH * len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}" viewBox="0 0 {width} {HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for index, panel in enumerate(panels):
        parts += [f'<g transform="translate({index * WIDTH},0)">', *_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def ticks(highest: float, count: int = 4) -> list[float]:
    """Return round values from 0 up to at least `highest`."""
    if highest <= 0:
        return [0.0, 1.0]
    magnitude = 10.0 ** math.floor(math.log10(highest / count))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude * count >= highest)
    return [step * index for index in range(math.ceil(round(highest / step, 9)) + 1)]


def _panel(panel: Panel) -> list[str]:
    points = [point for series in panel.series for point in series.points]
    xs, marks = sorted({x for x, _ in points}) or [1.0], ticks(max((y for _, y in points), default=0.0))
    place = _Scale(xs[0], xs[-1], marks[-1], panel.linear)
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts = [
        _text(middle, 18, panel.title, 'text-anchor="middle" font-weight="bold" font-size="12"'),
        _text(middle, HEIGHT - 8, panel.x_label, 'text-anchor="middle"'),
        _text(12, 34, panel.y_label, 'text-anchor="start" fill="#57606a"'),
    ]
    for mark in marks:
        y = place.y(mark)
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y, "#d0d7de"))
        parts.append(_text(LEFT - 6, y + 4, f"{mark:g}", 'text-anchor="end"'))
    for x in _shown(xs, place, linear=panel.linear):
        parts.append(_line(place.x(x), HEIGHT - BOTTOM, place.x(x), HEIGHT - BOTTOM + 4, "#57606a"))
        parts.append(_text(place.x(x), HEIGHT - BOTTOM + 17, f"{x:,.0f}", 'text-anchor="middle"'))
    for number, series in enumerate(panel.series):
        parts += _curve(series, place, COLOURS[number % len(COLOURS)], dots=not panel.linear)
    return parts + (_legend(panel.series) if len(panel.series) > 1 else [])


def _legend(series: Sequence[Series]) -> list[str]:
    """Labels above the plot, from the right."""
    parts, right = [], float(WIDTH - RIGHT)
    for number in reversed(range(len(series))):
        parts.append(
            _text(right, 34, series[number].label, f'text-anchor="end" fill="{COLOURS[number % len(COLOURS)]}"')
        )
        right -= 6.5 * len(series[number].label) + 10
    return parts


@dataclass(frozen=True, slots=True)
class _Scale:
    first: float
    last: float
    top: float
    linear: bool = False

    def x(self, value: float) -> float:
        if self.linear:
            return LEFT + min(1.0, value / max(self.last, 1e-9)) * (WIDTH - LEFT - RIGHT)
        share = math.log(value / self.first) / math.log(self.last / self.first) if self.last > self.first else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - value / self.top * (HEIGHT - TOP - BOTTOM)


def _shown(xs: Sequence[float], place: _Scale, *, linear: bool) -> list[float]:
    return [x for x in ticks(xs[-1]) if x <= xs[-1]] if linear else _spaced(xs, place)


def _spaced(xs: Sequence[float], place: _Scale) -> list[float]:
    """Leave out labels that would overlap the one before or the last."""
    shown = [xs[0]]
    for x in xs[1:-1]:
        if place.x(x) - place.x(shown[-1]) > 36 and place.x(xs[-1]) - place.x(x) > 36:
            shown.append(x)
    return [*shown, *xs[1:][-1:]]


def _curve(series: Series, place: _Scale, colour: str, *, dots: bool) -> list[str]:
    spots = [(place.x(x), place.y(y)) for x, y in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in spots if dots),
    ]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, attributes: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(text)}</text>'
