"""Parsing of command lines with `--and`."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from vllama_pool.router.cli.commands import serve
from vllama_pool.router.cli.commands.worker_groups import (
    CommandWithGroups,
    later_groups,
    split_groups,
    worker_group,
    worker_group_options,
)
from vllama_pool.router.supervisor.worker_specs import WorkerGroup


@click.command("serve", cls=CommandWithGroups, context_settings={"ignore_unknown_options": True})
@worker_group_options
@click.option("--port", type=int)
@click.pass_context
def command(ctx: click.Context, /, port: int | None, **options: Any) -> None:
    ctx.obj.append((port, [worker_group(**options), *later_groups(ctx)]))


def parse(*arguments: str) -> tuple[int | None, list[WorkerGroup]]:
    parsed: list[tuple[int | None, list[WorkerGroup]]] = []
    result = CliRunner().invoke(command, arguments, obj=parsed)
    assert result.exit_code == 0, result.output
    return parsed[0]


def usage_error(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments, obj=[])
    assert result.exit_code == 2, result.output
    return result.output


def test_without_and_there_is_one_group() -> None:
    assert parse("--model", "a", "--model", "b", "--max-num-seqs", "8", "--port", "5") == (
        5,
        [WorkerGroup(("a", "b"), flags=("--max-num-seqs", "8"))],
    )
    assert parse() == (None, [WorkerGroup(())])


def test_each_group_has_options_and_flags_of_its_own() -> None:
    arguments = "--model a --name x --replicas 2 --gpus 0,1 --max-model-len 2048 --port 5 "
    arguments += (
        "--and --model b --name y --engine simulated --tag a100 --tag zone-b --and --model c -- --runner pooling"
    )
    assert parse(*arguments.split()) == (
        5,
        [
            WorkerGroup(("a",), ("x",), 2, ("0", "1"), ("--max-model-len", "2048")),
            WorkerGroup(("b",), ("y",), engine="simulated", tags=("a100", "zone-b")),
            WorkerGroup(("c",), flags=("--runner", "pooling")),
        ],
    )


def test_the_first_group_may_be_empty() -> None:
    assert parse("--and", "--model", "a") == (None, [WorkerGroup(()), WorkerGroup(("a",))])
    assert split_groups([]) == [[]]
    assert split_groups(["--and"]) == [[], []]


def test_a_group_without_a_model_is_refused() -> None:
    for arguments in (["--max-num-seqs", "8"], [], ["--and", "--model", "b"]):
        assert "--model is missing after --and" in usage_error("--model", "a", "--and", *arguments)
    assert "to pass it to vLLM, give a --model" in usage_error("--max-num-seqs", "8")


@pytest.mark.parametrize("word", ["--port", "--port=9"])
def test_an_option_of_serve_is_refused_after_and(word: str) -> None:
    assert "give it before the first --and" in usage_error("--model", "a", "--and", "--model", "b", word, "9")


def test_a_bad_value_is_refused_in_any_group() -> None:
    assert "Invalid value for '--replicas'" in usage_error("--model", "a", "--and", "--model", "b", "--replicas", "0")


def test_the_help_of_serve_explains_and() -> None:
    result = CliRunner().invoke(serve.command, ["--help"])
    assert "--and --model B" in result.output
