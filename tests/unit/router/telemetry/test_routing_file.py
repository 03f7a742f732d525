"""The state of the routing file, in metrics and reports."""

from __future__ import annotations

import msgspec
import pytest

from vllama_pool.router.telemetry.families import exposition
from vllama_pool.router.telemetry.routing_file import (
    FileProblem,
    RoutingFileState,
    routing_file_families,
    routing_states,
)

GOOD = RoutingFileState("routing.yaml", "abc", 1000.0, reloads=3)
PROBLEM = FileProblem("unknown key; correct it", "routing.yaml", 3, 5, "models.a.x")
BAD = msgspec.structs.replace(GOOD, failures=1, problems=(PROBLEM,))


@pytest.mark.parametrize(("state", "success", "failures"), [(GOOD, "1.0", "0.0"), (BAD, "0.0", "1.0")])
def test_metrics_show_the_latest_load_and_the_live_revision(
    state: RoutingFileState, success: str, failures: str
) -> None:
    page = exposition(routing_file_families(state))
    lines = [line for line in page.splitlines() if not line.startswith("#")]
    assert lines == [
        f"vllama_config_reload_success {success}",
        "vllama_config_reload_success_timestamp_seconds 1000.0",
        "vllama_config_reloads_total 3.0",
        f"vllama_config_reload_failures_total {failures}",
        'vllama_config_revision_info{revision="abc"} 1.0',
    ]


def test_a_problem_names_its_place_where_it_has_one() -> None:
    assert str(PROBLEM) == "routing.yaml:3:5: models.a.x: unknown key; correct it"
    assert str(FileProblem("is gone; put it back", "routing.yaml")) == "routing.yaml: is gone; put it back"


def test_states_are_reported_by_the_names_of_the_processes() -> None:
    states = routing_states({1: BAD, 0: GOOD, 2: None})
    assert list(states.items()) == [("router-0", GOOD), ("router-1", BAD)]
    assert msgspec.json.decode(msgspec.json.encode(states), type=dict[str, RoutingFileState]) == states
