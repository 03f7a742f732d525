"""Groups of options separated by `--and`, so that one command runs models with different flags.

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
    click.option("--model", "models", multiple=True, metavar="MODEL", help="Run a worker for this model. Repeatable."),
    click.option("--name", "names", multiple=True, metavar="NAME", help="Worker name, one for each --model."),
    click.option(
        "--replicas", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of workers per model."
    ),
    click.option("--gpus", default="", metavar="LIST", help="GPUs, such as 0,1,2,3, shared evenly by the workers."),
    click.option(
        "--engine", type=click.Choice(ENGINES), default="vllm", help="simulated: needs no model and no GPU, for tests."
    ),
)
_VLLM_FLAGS = click.argument("vllm_args", nargs=-1, type=click.UNPROCESSED, metavar="[VLLM FLAGS]...")


def of_a_group(function: _CommandT) -> _CommandT:
    """Add the options that each group has to a command."""
    for option in reversed((*_OPTIONS, _VLLM_FLAGS)):
        function = option(function)
    return function


class Grouped(click.Command):
    """A command with groups. Its own options must come before the first `--and`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first, *further = split(args)
        ctx.meta[_FURTHER] = [self._group(ctx, words) for words in further]
        return super().parse_args(ctx, first)

    def _group(self, ctx: click.Context, words: list[str]) -> WorkerGroup:
        given = _further.make_context(ctx.info_name, words, parent=ctx).params
        own = {name for option in self.params for name in option.opts}
        for word in given["vllm_args"]:
            if word.partition("=")[0] in own:
                raise click.UsageError(
                    f"{word!r} applies to all of {ctx.info_name}; give it before the first {AND}", ctx
                )
        if not given["models"]:
            raise click.UsageError(f"--model is missing after {AND}", ctx)
        return group(**given)


def split(words: Sequence[str]) -> list[list[str]]:
    """Split the arguments at `--and`. The first group is the command's own and may be empty."""
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
    """Build a group from its option values."""
    if vllm_args and not models:
        raise click.UsageError(f"{vllm_args[0]!r} is not an option of serve; to pass it to vLLM, give a --model")
    devices = tuple(gpu for gpu in re.split(r"[,\s]+", gpus) if gpu)
    return WorkerGroup(tuple(models), tuple(names), replicas, devices, tuple(vllm_args), engine)


def further_groups(ctx: click.Context) -> list[WorkerGroup]:
    """Return the groups after each `--and`."""
    found: list[WorkerGroup] = ctx.meta[_FURTHER]
    return found


@click.command("further", context_settings={**PASS_ON, "help_option_names": []}, add_help_option=False)
@of_a_group
def _further(**_: Any) -> None:
    """Parses a group's options; never called."""
