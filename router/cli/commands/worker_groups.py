"""Groups of worker options, separated by `--and`.

vllama serve --model A --max-model-len 8192 --and --model B --name embeddings --max-num-seqs 8
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from vllama_pool.config.redaction import redacted
from vllama_pool.router.cli.commands.shared_options import PASS_UNKNOWN_OPTIONS, engine_option, vllm_flags
from vllama_pool.router.supervisor.worker_specs import WorkerGroup

AND = "--and"
_LATER_GROUPS = "vllama.later_groups"
_CommandT = TypeVar("_CommandT", bound=Callable[..., Any])
_OPTIONS = (
    click.option(
        "--model",
        "models",
        multiple=True,
        metavar="MODEL",
        help="Model folder, or a name such as Qwen/Qwen3-8B. Repeatable: one worker for each.",
    ),
    click.option(
        "--name",
        "names",
        multiple=True,
        metavar="NAME",
        help="Worker name, one for each --model (default: made of model, host and port).",
    ),
    click.option(
        "--replicas", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of workers for each model."
    ),
    click.option(
        "--gpus",
        default="",
        metavar="LIST",
        help="GPU numbers, such as 0,1,2,3, split evenly among the workers (default: each worker sees all GPUs).",
    ),
    click.option(
        "--tag", "tags", multiple=True, metavar="TAG", help="Tag of the workers, for the routing file. Repeatable."
    ),
    engine_option,
    vllm_flags,
)


def worker_group_options(function: _CommandT) -> _CommandT:
    """Decorator that adds the options of one group to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


class CommandWithGroups(click.Command):
    """Parses groups. Options that are not per group must precede the first `--and`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first, *later = split_groups(args)
        ctx.meta[_LATER_GROUPS] = [self._parse_group(ctx, words) for words in later]
        return super().parse_args(ctx, first)

    def _parse_group(self, ctx: click.Context, words: list[str]) -> WorkerGroup:
        options = _group_parser.make_context(ctx.info_name, words, parent=ctx).params
        command_options = {name for param in self.params for name in param.opts}
        for word in options["vllm_args"]:
            if word.partition("=")[0] in command_options:
                raise click.UsageError(
                    f"{word.partition('=')[0]!r} applies to all of {ctx.info_name}; give it before the first {AND}",
                    ctx,
                )
        if not options["models"]:
            raise click.UsageError(f"--model is missing after {AND}", ctx)
        return worker_group(**options)


def split_groups(words: Sequence[str]) -> list[list[str]]:
    """Split at `--and`. The first group may be empty."""
    groups: list[list[str]] = [[]]
    for word in words:
        if word == AND:
            groups.append([])
        else:
            groups[-1].append(word)
    return groups


def worker_group(
    models: Sequence[str],
    names: Sequence[str],
    replicas: int,
    gpus: str,
    tags: Sequence[str],
    engine: str,
    vllm_args: Any,
) -> WorkerGroup:
    if vllm_args and not models:
        word = redacted(str(vllm_args[0])).partition("=")[0]
        raise click.UsageError(f"{word!r} is not an option of serve; to pass it to vLLM, give a --model")
    devices = tuple(gpu for gpu in re.split(r"[,\s]+", gpus) if gpu)
    return WorkerGroup(tuple(models), tuple(names), replicas, devices, tuple(vllm_args), engine, tuple(tags))


def later_groups(ctx: click.Context) -> list[WorkerGroup]:
    groups: list[WorkerGroup] = ctx.meta[_LATER_GROUPS]
    return groups


@click.command("later", context_settings={**PASS_UNKNOWN_OPTIONS, "help_option_names": []}, add_help_option=False)
@worker_group_options
def _group_parser(**_: Any) -> None:
    """Parses the options of a later group; never called."""
