"""`vllama explain` without a router."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vllama_pool.router.cli.main import main

TABLE = """\
models:
  m:
    serve: [{model: x, weight: 3}, {model: y, weight: 1}]
    aliases: [small]
keys:
  ci: {sha256: "%s", models: [other]}
""" % ("0" * 64)


def explain(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["explain", *arguments])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "routing.yaml"
    path.write_text(TABLE)
    return path


def test_a_routing_file_explains_a_name_by_itself(file: Path) -> None:
    result = explain("small", "--file", str(file))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "small goes to x (75.0%) or y (25.0%)"
    assert lines[1] == f"  rule      'm' at {file}:2, by its alias 'small'"


def test_json_of_a_routing_file_names_no_workers(file: Path) -> None:
    result = explain("small", "--file", str(file), "--json")
    explanation = json.loads(result.stdout)
    assert explanation["rule"]["place"] == f"{file}:2"
    assert not {"chosen", "candidates"} & explanation.keys()


def test_a_name_outside_the_file_fails_with_those_that_resemble_it(file: Path) -> None:
    result = explain("smal", "--file", str(file))
    assert result.exit_code == 1
    error = "no entry of the file is for 'smal'; a router knows it only if a worker serves it"
    assert result.stdout.splitlines()[:2] == [f"smal: {error}", "  near      small"]


def test_a_key_of_the_file_limits_the_models(file: Path) -> None:
    assert "may not use the model 'm'" in explain("m", "--key", "ci", "--file", str(file)).stdout
    unknown = explain("m", "--key", "nobody", "--file", str(file))
    assert (unknown.exit_code, unknown.stderr) == (
        1,
        "vllama: no API key has the name 'nobody'; correct it, or leave it out\n",
    )


def test_an_invalid_file_prints_its_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "routing.yaml"
    path.write_text("models: {m: {serv: x}}\n")
    result = explain("m", "--file", str(path))
    assert (result.exit_code, str(path) in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "name a MODEL, or a past request with --request ID"),
        (["m", "--request", "1"], "--request explains a past request; leave MODEL and --file out"),
        (["m", "--header", "no-colon"], "--header is NAME:VALUE, such as x-session-id:42"),
        (["m", "--prompt-tokens", "-1"], "-1 is not in the range x>=0"),
    ],
)
def test_an_unusable_question_is_a_usage_error(arguments: list[str], error: str) -> None:
    result = explain(*arguments)
    assert (result.exit_code, error in result.stderr) == (2, True)


@pytest.mark.parametrize(("content", "error"), [(None, "No such file"), ("{", "not JSON")])
def test_a_body_that_cannot_be_used_is_an_error(tmp_path: Path, content: str | None, error: str) -> None:
    body = tmp_path / "body.json"
    if content is not None:
        body.write_text(content)
    result = explain("--body", str(body))
    assert (result.exit_code, error in result.stderr) == (1, True)
