"""The routing file in the output of `vllama ps`."""

from __future__ import annotations

import msgspec
import pytest

from vllama_pool.router.cli.routing_file_text import age_text, problem_lines, revision_lines
from vllama_pool.router.telemetry.routing_file import FileProblem, RoutingFileState

GOOD = RoutingFileState("routing.yaml", "abc", 1000.0)
OTHER = msgspec.structs.replace(GOOD, revision="def", loaded=1060.0)
BAD = msgspec.structs.replace(GOOD, problems=(FileProblem("unknown key; correct it", "routing.yaml", 3, 5, "a.x"),))


@pytest.mark.parametrize(
    ("states", "lines"),
    [
        ({}, []),
        ({"router-0": GOOD}, ["routing file routing.yaml: revision abc, read 2 min ago"]),
        (
            {"router-0": GOOD, "router-1": GOOD},
            ["routing file routing.yaml: revision abc in router-0, router-1, read 2 min ago"],
        ),
        (
            {"router-0": GOOD, "router-1": OTHER},
            [
                "routing file routing.yaml: revision abc in router-0, read 2 min ago",
                "routing file routing.yaml: revision def in router-1, read 40 s ago",
            ],
        ),
    ],
)
def test_the_live_revision_is_shown_with_its_processes(states: dict[str, RoutingFileState], lines: list[str]) -> None:
    assert list(revision_lines(states, 1100.0)) == lines
    assert list(problem_lines(states)) == []


def test_a_refused_file_is_shown_with_place_and_cure() -> None:
    assert list(problem_lines({"router-0": BAD})) == [
        "the routing file as it is now is refused; the revision above stays live:",
        "  routing.yaml:3:5: a.x: unknown key; correct it",
    ]
    first, *_ = problem_lines({"router-0": GOOD, "router-1": BAD})
    assert "is refused by router-1;" in first


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59, "59 s"), (61, "1 min"), (7300, "2 h"), (200_000, "2 d")]
)
def test_ages_have_one_unit(seconds: float, text: str) -> None:
    assert age_text(seconds) == text
