"""`vllama check`: exit codes, formats, warnings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vllama_pool.router.cli.main import main

WARNS = "models:\n  a:\n    serve: [{model: x, weight: 0}, y]\n"
WARNING = (
    "3:24: warning: models.a.serve[0].weight: 0: 'x' gets requests only while no other target has a worker; "
    "write a weight above 0, or remove it"
)


def check(file: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["check", str(file), *options])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "routing.yaml"


def test_a_warning_is_printed_with_its_place_and_does_not_fail_the_check(file: Path) -> None:
    file.write_text(WARNS)
    result = check(file)
    assert result.exit_code == 0
    assert result.stderr == f"vllama: {file}:{WARNING}\n"
    assert result.stdout.endswith(f"{file}: 1 model, 0 static workers; 1 warning\n")


def test_strict_makes_warnings_errors_in_all_formats(file: Path) -> None:
    file.write_text(WARNS)
    text, as_json, github = (check(file, "--strict", "--format", name) for name in ("text", "json", "github"))
    assert [text.exit_code, as_json.exit_code, github.exit_code] == [1, 1, 1]
    assert text.stderr == f"vllama: {file}:{WARNING.replace('warning: ', '')}\n"
    assert text.stdout.endswith("; 1 error\n")
    assert [len(json.loads(as_json.stdout)[kind]) for kind in ("errors", "warnings")] == [1, 0]
    assert github.stdout.startswith("::error ")


def test_a_model_whose_requests_cannot_wait_for_a_worker_is_a_warning(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("models:\n  m: {scale: {from_zero: true}}\n")
    assert check(file, "--strict").exit_code == 0
    monkeypatch.setenv("OLLAMA_MAX_QUEUE", "0")
    result = check(file)
    assert result.exit_code == 0
    assert result.stderr.startswith(f"vllama: {file}:2:15: warning: models.m.scale.from_zero: no request can wait ")
    assert check(file, "--strict").exit_code == 1


def test_strict_accepts_a_file_without_warnings(file: Path) -> None:
    file.write_text("models: {a: {serve: x}}\n")
    assert check(file, "--strict").exit_code == 0


@pytest.mark.parametrize("options", [("--json",), ("--format", "json")])
def test_json_has_errors_and_warnings_apart(file: Path, options: tuple[str, ...]) -> None:
    file.write_text(WARNS)
    result = check(file, *options)
    checked = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (0, "")
    assert (checked["file"], checked["models"], checked["workers"], checked["errors"]) == (str(file), 1, 0, [])
    assert len(checked["revision"]) == 12
    (warning,) = checked["warnings"]
    assert (warning["file"], warning["line"], warning["column"]) == (str(file), 3, 24)
    assert (warning["severity"], warning["key"]) == ("warning", "models.a.serve[0].weight")


def test_json_of_an_invalid_file_has_its_errors_and_no_revision(file: Path) -> None:
    file.write_text("models:\n  a: {serv: x}\n")
    result = check(file, "--json")
    checked = json.loads(result.stdout)
    assert result.exit_code == 1
    assert checked["revision"] == ""
    assert [(error["line"], error["column"], error["severity"]) for error in checked["errors"]] == [(2, 7, "error")]


def test_github_prints_one_workflow_command_per_finding(file: Path) -> None:
    file.write_text("models:\n  a: {serv: x}\n")
    result = check(file, "--format", "github")
    assert result.exit_code == 1
    assert result.stdout.startswith(f"::error file={file},line=2,col=7::models.a.serv: unknown key; did you mean")
    assert (len(result.stdout.splitlines()), result.stderr) == (1, "")


def test_a_file_that_cannot_be_read_is_not_checked(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none.yaml", "No such file or directory"), (tmp_path, "Is a directory")):
        result = check(path, "--json")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == f"vllama: {path}: {why}; name a readable file\n"
