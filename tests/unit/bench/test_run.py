from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.bench.apis import APIS
from tests.bench.contenders import peers, vllama
from tests.bench.processes import busy_seconds
from tests.bench.programs import CannotMeasure
from tests.bench.run import missing, wanted_scenarios
from tests.bench.samples import Sample
from tests.bench.scenarios import SCENARIOS


def test_a_scenario_is_measured_until_enough_runs_count() -> None:
    samples = [Sample(contender="vllama", scenario=name, other=0) for name in ("S", "S", "B")]
    wanted = [SCENARIOS["S"], SCENARIOS["B"]]
    assert missing(samples, "vllama", wanted, 2) == [SCENARIOS["B"]]
    assert missing(samples, "nginx", wanted, 1) == wanted


def test_an_unknown_scenario_is_refused_with_the_known_ones() -> None:
    with pytest.raises(CannotMeasure, match="X: no such scenario; choose among E, B, C, S, D1, D"):
        wanted_scenarios("D1,X")


def test_memory_of_streams_is_read_before_more_streams_were_open() -> None:
    assert [each.name for each in wanted_scenarios("S,D1,B,C")] == ["D1", "B", "C", "S"]
    assert [each.name for each in wanted_scenarios("D1,D,E,B,S,C")] == ["D1", "D", "E", "B", "C", "S"]
    assert [each.name for each in wanted_scenarios("S,D1")] == ["S", "D1"]


def test_peers_are_chosen_by_name_or_path(tmp_path: Path) -> None:
    program = tmp_path / "nginx"
    program.touch(0o755)
    assert [peer.name for peer in peers(f" {program},")] == ["nginx"]
    assert peers("") == []
    with pytest.raises(CannotMeasure, match="is not a known peer; choose among vllm-router"):
        peers("haproxy")
    with pytest.raises(CannotMeasure, match="is not installed"):
        peers(str(tmp_path / "none" / "nginx"))


def test_the_router_is_measured_with_routing_file_registry_and_api_key(tmp_path: Path) -> None:
    launch = vllama(tmp_path, api=APIS["/api/chat"], processes=2).launch(1234, "http://127.1.0.1:99", tmp_path)
    assert launch.command[1:] == [
        *("-m", "vllama_pool", "serve", "--host", "127.0.0.1", "--port", "1234", "--processes", "2"),
        *("--routing", str(tmp_path / "routing.yaml")),
    ]
    assert launch.env["VLLAMA_API_KEYS"].startswith("bench:")
    assert launch.state_dir == tmp_path
    assert set(launch.env) >= set(os.environ) - {name for name in os.environ if name.startswith(("VLLAMA_", "OLLAMA_"))}


def test_the_machines_busy_time_includes_stolen_time_and_no_waiting() -> None:
    assert busy_seconds("cpu  100 200 300 9999 8888 10 20 70 0 0\ncpu0 1 1 1\n", 100) == 7.0
