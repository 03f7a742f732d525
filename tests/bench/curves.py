"""Measure how the router scales, and draw the curves of docs/performance.md.

    make bench-curves ARGS="--curves streams,workers"

The points are kept in .bench/curves.json, so that curves can be measured one at a time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.bench.apis import OLLAMA
from tests.bench.contenders import vllama
from tests.bench.plot import Panel, Series, svg
from tests.bench.programs import WORK, CannotMeasure, build
from tests.bench.report import short
from tests.bench.rig import ROOT, Rig, rig
from tests.bench.running import running, warm_up
from tests.bench.scale import Point, background, most_streams, with_fleet, with_processes, with_streams

DOCS = ROOT / "docs"
POINTS = WORK / "curves.json"
WORKERS_OF_MODELS = 10
"""Workers that serve the models of the curve over models."""


@dataclass(frozen=True, slots=True)
class Chart:
    title: str
    unit: str
    figures: dict[str, str]
    """Name in a point -> label."""


@dataclass(frozen=True, slots=True)
class Curve:
    x_label: str
    addresses: int
    """Workers of the fake vLLM."""
    xs: tuple[int, ...]
    points: Callable[[Rig, tuple[int, ...]], Iterator[Point]]
    charts: tuple[Chart, ...]


def streams(bench: Rig, xs: tuple[int, ...]) -> Iterator[Point]:
    with running(vllama(api=OLLAMA), bench) as router:
        warm_up(router, bench)
        idle = background(router)["idle"] / 100
        for count in dict.fromkeys(map(most_streams, xs)):
            yield with_streams(router, bench, count, idle)


def workers(bench: Rig, xs: tuple[int, ...]) -> Iterator[Point]:
    return (with_fleet(bench, count, count, 1) for count in xs)


def models(bench: Rig, xs: tuple[int, ...]) -> Iterator[Point]:
    return (with_fleet(bench, count, WORKERS_OF_MODELS, count) for count in xs)


def processes(bench: Rig, xs: tuple[int, ...]) -> Iterator[Point]:
    return (with_processes(bench, count) for count in xs)


REQUEST = Chart("CPU per request", "µs", {"cpu_request": "one token"})
FLEET = (
    REQUEST,
    Chart("Time until a new worker gets requests", "ms", {"join": "join"}),
    Chart("CPU without requests", "% of a core", {"idle": "router", "registry": "registry"}),
)
CURVES = {
    "streams": Curve(
        "open streams",
        1,
        (1, 10, 100, 1000, 3000, 10_000),
        streams,
        (
            Chart("CPU per token", "µs", {"cpu_token": "token"}),
            Chart("Memory per stream", "KiB", {"memory": "stream"}),
            Chart("Added token latency", "ms", {"token_p50": "p50", "token_p99": "p99"}),
        ),
    ),
    "workers": Curve("workers", 1001, (2, 10, 100, 1000), workers, FLEET),
    "models": Curve("models", WORKERS_OF_MODELS + 1, (1, 10, 100, 1000, 5000), models, FLEET),
    "processes": Curve(
        "router processes",
        1,
        (1, 2),
        processes,
        (REQUEST, Chart("Share of the work", "%", {"least": "least busy", "most": "busiest"})),
    ),
}


def panels(curve: Curve, points: Sequence[Point]) -> list[Panel]:
    return [
        Panel(
            chart.title,
            curve.x_label,
            chart.unit,
            [
                Series(label, [(point.x, point.figures[name]) for point in points if name in point.figures])
                for name, label in chart.figures.items()
            ],
        )
        for chart in curve.charts
    ]


def table(curve: Curve, points: Sequence[Point]) -> str:
    """Return the points as Markdown."""
    columns = [(chart, name, label) for chart in curve.charts for name, label in chart.figures.items()]
    head = [curve.x_label]
    for chart, _, label in columns:
        head.append(f"{chart.title}{f', {label}' if len(chart.figures) > 1 else ''}, {chart.unit}")
    rows = [[f"{point.x:,}", *(_cell(point, name) for _, name, _ in columns)] for point in points]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _cell(point: Point, name: str) -> str:
    return short(point.figures[name]) if name in point.figures else "–"


def measure(name: str) -> list[Point]:
    curve, points = CURVES[name], []
    with rig(build(), WORK / "run", curve.addresses) as bench:
        for point in curve.points(bench, curve.xs):
            points.append(point)
            figures = " ".join(f"{key}={short(value)}" for key, value in point.figures.items())
            say(f"{name} {point.x}: {figures} other={point.other:.2f}")
    return points


def read_points(path: Path) -> dict[str, list[Point]]:
    return msgspec.json.decode(path.read_bytes(), type=dict[str, list[Point]]) if path.exists() else {}


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("make bench-curves", description=__doc__)
    parser.add_argument("--curves", default=",".join(CURVES), help="names, separated by commas (default: %(default)s)")
    parser.add_argument("--draw", action="store_true", help="draw the kept points without measuring")
    parser.add_argument("--points", type=Path, default=POINTS)
    choice = parser.parse_args(arguments)
    kept = read_points(choice.points)
    try:
        for name in choice.curves.split(","):
            if name not in CURVES:
                raise CannotMeasure(f"{name}: no such curve; choose among {', '.join(CURVES)}")
            if not choice.draw:
                kept[name] = measure(name)
                choice.points.write_bytes(msgspec.json.encode(kept))
            if name in kept:
                (DOCS / f"performance-{name}.svg").write_text(svg(panels(CURVES[name], kept[name])))
                say(f"\n{table(CURVES[name], kept[name])}\n")
    except CannotMeasure as error:
        sys.stderr.write(f"bench-curves: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
