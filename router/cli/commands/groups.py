"""Models that one command line runs in different ways: groups of words with `--and` between them.

vllama serve --model A --max-model-len 8192 --and --model B --name embeddings --max-num-seqs 8
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from vllama_pool.router.cli.commands.common import PASS_ON
from vllama_pool.router.supervisor.plan import WorkerGroup
from vllama_pool.workers.agent.command_line import ENGINES

AND = "--and"
_FURTHER = "vllama.further_groups"
_CommandT = TypeVar("_CommandT", bound=Callable[..., Any])
_OPTIONS = (
    click.option("--model", "models", multiple=True, metavar="MODEL", help="Also run a worker for this. Repeatable."),
    click.option("--name", "names", multiple=True, metavar="NAME", help="Name of the worker, one for each --model."),
    click.option(
        "--replicas", type=click.IntRange(1, 64), default=1, show_default=True, help="Workers for each model."
    ),
    click.option("--gpus", default="", metavar="LIST", help="GPUs such as 0,1,2,3, dealt out evenly to the workers."),
    click.option(
        "--engine", type=click.Choice(ENGINES), default="vllm", help="simulated: no model and no GPU, for tests."
    ),
)
_VLLM_FLAGS = click.argument("vllm_args", nargs=-1, type=click.UNPROCESSED, metavar="[VLLM FLAGS]...")


def of_a_group(function: _CommandT) -> _CommandT:
    """The options that every group has of its own, as parameters of a command."""
    for option in reversed((*_OPTIONS, _VLLM_FLAGS)):
        function = option(function)
    return function


class Grouped(click.Command):
    """A command that takes further groups. Its own options are taken before the first `--and` alone."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first, *further = split(args)
        ctx.meta[_FURTHER] = [self._group(ctx, words) for words in further]
        return super().parse_args(ctx, first)

    def _group(self, ctx: click.Context, words: list[str]) -> WorkerGroup:
        given = _further.make_context(ctx.info_name, words, parent=ctx).params
        own = {name for option in self.params for name in option.opts}
        for word in given["vllm_args"]:
            if word.partition("=")[0] in own:
                raise click.UsageError(f"{word!r} is for all of {ctx.info_name}: give it before the first {AND}", ctx)
        if not given["models"]:
            raise click.UsageError(f"there is no --model after {AND}", ctx)
        return group(**given)


def split(words: Sequence[str]) -> list[list[str]]:
    """The words of each group, which may be none; the first is that of the command itself."""
    groups: list[list[str]] = [[]]
    for word in words:
        if word == AND:
            groups.append([])
        else:
            groups[-1].append(word)
    return groups


def group(
    models: Sequence[str], names: Sequence[str], replicas: int, gpus: str, engine: str, vllm_args: Any
) -> WorkerGroup:
    """A group from the values of its options."""
    if vllm_args and not models:
        raise click.UsageError(
            f"{vllm_args[0]!r} is no option of serve, and there is no --model whose vLLM would get it"
        )
    devices = tuple(gpu for gpu in re.split(r"[,\s]+", gpus) if gpu)
    return WorkerGroup(tuple(models), tuple(names), replicas, devices, tuple(vllm_args), engine)


def further_groups(ctx: click.Context) -> list[WorkerGroup]:
    """What came after each `--and`."""
    found: list[WorkerGroup] = ctx.meta[_FURTHER]
    return found


@click.command("further", context_settings={**PASS_ON, "help_option_names": []}, add_help_option=False)
@of_a_group
def _further(**_: Any) -> None:
    """Never called: it reads a group's words."""
