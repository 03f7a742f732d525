"""The output of `vllama check --against`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from vllama_pool.router.cli.main import main

CANARY = "models:\n  m:\n    serve: [{model: x, weight: 3}, {model: y, weight: 1}]\n"


def decision(requested: str = "m", target: str = "x", **fields: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "requested": requested,
        "model": requested,
        "target": target,
        "served": target,
        "operation": "chat",
        **fields,
    }


def check(folder: Path, table: str, decisions: list[dict[str, Any]], *options: str) -> Result:
    file, recording = folder / "routing.yaml", folder / "decisions.jsonl"
    file.write_text(table)
    recording.write_text("".join(f"{json.dumps(each)}\n" for each in decisions))
    return CliRunner().invoke(main, ["check", str(file), "--against", str(recording), *options])


def test_the_text_of_a_comparison(tmp_path: Path) -> None:
    decisions = [
        *[decision(shares={"x": 0.9, "y": 0.1})] * 10,
        *[decision("old", "y", key=key) for key in ("ci", "ci", "")],
        decision("alias", "x", model="m"),
        decision("never", "", model=""),
    ]
    table = CANARY + "  alias: {serve: y}\n  never: {serve: x}\n"
    result = check(tmp_path, table, decisions)
    assert result.exit_code == 1
    assert (
        result.stdout.partition("no problems\n")[2]
        == """\
15 recorded requests, as if a worker served each target; --against last asks a running router
  unchanged                8.5  56.7%
  moved to another target  2.5  16.7%
  become unroutable          3  20.0%
  become routable            1   6.7%
unroutable
  old  3  unknown model  keys: ci 2, no key 1
moved
  m      1.5   15.0%  x -> y  expected of a random draw
  alias    1  100.0%  x -> y
decided by another rule
  alias  1  m -> alias
"""
    )


def test_a_comparison_without_unroutable_requests_succeeds(tmp_path: Path) -> None:
    result = check(tmp_path, CANARY, [decision()])
    assert result.exit_code == 0
    assert "become unroutable          0   0.0%" in result.stdout


def test_json_has_the_whole_comparison(tmp_path: Path) -> None:
    result = check(tmp_path, CANARY, [decision("old", "y", key="ci"), decision()], "--json")
    against = json.loads(result.stdout)["against"]
    assert result.exit_code == 1
    assert (against["requests"], against["unroutable"]) == (2, 1)
    assert against["refusals"] == [
        {"requested": "old", "rule_before": "old", "reason": "unknown model", "requests": 1, "keys": {"ci": 1}}
    ]
    assert against["moves"] == [
        {
            "requested": "m",
            "rule_before": "m",
            "rule_after": "m",
            "before": "x",
            "after": "y",
            "requests": 0.25,
            "share": 0.25,
            "random": True,
        }
    ]


def test_github_shows_unroutable_requests_as_errors(tmp_path: Path) -> None:
    result = check(tmp_path, CANARY, [decision("old", "y"), decision()], "--format", "github")
    assert (result.exit_code, result.stdout) == (
        1,
        f"::error file={tmp_path}/routing.yaml::1 recorded request for 'old' would become unroutable: unknown model\n",
    )


def test_the_current_file_replaces_what_happened(tmp_path: Path) -> None:
    current = tmp_path / "current.yaml"
    current.write_text(CANARY)
    result = check(tmp_path, CANARY, [decision()], "--current", str(current), "--json")
    assert json.loads(result.stdout)["against"]["unchanged"] == 1


def test_requests_of_a_removed_key_become_unroutable(tmp_path: Path) -> None:
    current = tmp_path / "current.yaml"
    current.write_text(f"{CANARY}keys: {{ci: {{sha256: '{'0' * 64}'}}}}\n")
    result = check(tmp_path, CANARY, [decision(key="ci"), decision()], "--current", str(current), "--json")
    (refusal,) = json.loads(result.stdout)["against"]["refusals"]
    assert (refusal["reason"], refusal["requests"]) == ("its API key is no longer in the file", 1)


def test_a_served_name_outside_the_file_stays_routable(tmp_path: Path) -> None:
    result = check(tmp_path, "models: {}\n", [decision("org/x", "org/x")], "--json")
    assert json.loads(result.stdout)["against"]["unchanged"] == 1


@pytest.mark.parametrize("line", ["{", "[]", '{"requested": 1}', "\x00"])
def test_a_recording_that_cannot_be_read_names_its_line(tmp_path: Path, line: str) -> None:
    file, recording = tmp_path / "routing.yaml", tmp_path / "decisions.jsonl"
    file.write_text(CANARY)
    recording.write_text(f"{json.dumps(decision())}\n\n{line}\n")
    result = CliRunner().invoke(main, ["check", str(file), "--against", str(recording)])
    assert result.exit_code == 2
    assert result.stderr == (
        f"vllama: {recording}:3: not a recorded decision; save the answer of GET /admin/decisions\n"
    )


def test_a_recording_or_current_file_that_is_missing_is_not_checked(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text(CANARY)
    missing = str(tmp_path / "none")
    for options in (["--against", missing], ["--against", str(file), "--current", missing]):
        result = CliRunner().invoke(main, ["check", str(file), *options])
        assert (result.exit_code, missing in result.stderr) == (2, True)


def test_an_invalid_file_is_not_compared(tmp_path: Path) -> None:
    result = check(tmp_path, "models: {m: {serv: x}}\n", [decision()])
    assert result.exit_code == 1
    assert "recorded requests" not in result.stdout
