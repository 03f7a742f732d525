"""What commands have in common: settings out of the environment, and how mistakes are told."""

from __future__ import annotations

import os
from typing import IO, Any, TypeVar

import click
from pydantic import ValidationError

from vllama_pool.config.environment import unknown, variables_of
from vllama_pool.config.ollama_env import without_effect
from vllama_pool.config.settings import RouterSettings, WorkerSettings, explain
from vllama_pool.router.instance import LISTEN_FD, PROCESS
from vllama_pool.workers.process.status import STATUS_FD

SettingsT = TypeVar("SettingsT", RouterSettings, WorkerSettings)

PASS_ON = {"ignore_unknown_options": True, "help_option_names": ["--help"]}
"""vLLM's flags are vLLM's business: what is no option of ours goes to it as it is."""

INTERNAL = ("VLLAMA_VLLM", STATUS_FD, LISTEN_FD, PROCESS)
"""Our variables that are no settings."""


class CommandFailed(click.ClickException):
    """One line, or one for each problem, on stderr."""

    def show(self, file: IO[Any] | None = None) -> None:
        for line in self.message.splitlines():
            click.echo(f"vllama: {line}", err=True)


def export(variables: dict[str, str | int | None]) -> None:
    """Options are the strongest settings: said in the environment they also reach every child."""
    os.environ.update({name: str(value) for name, value in variables.items() if value is not None})


def warn_of_unknown() -> None:
    """A setting that is misspelt, or means nothing here, has no effect, and nobody would notice."""
    known = {*variables_of(RouterSettings), *variables_of(WorkerSettings), *INTERNAL}
    for line in (*unknown(os.environ, known), *without_effect(os.environ)):
        click.echo(f"vllama: {line}", err=True)


def read(kind: type[SettingsT]) -> SettingsT:
    """Settings from the environment. Raises CommandFailed with a line for each mistake."""
    try:
        return kind()
    except ValidationError as error:
        raise CommandFailed("\n".join(explain(error))) from error
