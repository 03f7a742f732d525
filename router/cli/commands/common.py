"""Settings from the environment, and error output."""

from __future__ import annotations

import os
from typing import IO, Any, TypeVar

import click
from pydantic import ValidationError

from vllama_pool.config.environment import unknown_variables, variables_of
from vllama_pool.config.ollama_env import warnings
from vllama_pool.config.printable import printable
from vllama_pool.config.redaction import redacted
from vllama_pool.config.settings import RouterSettings, WorkerSettings, error_lines
from vllama_pool.router.instance import LISTEN_FD, PROCESS
from vllama_pool.workers.process.status import RESTARTED, STATUS_FD

SettingsT = TypeVar("SettingsT", RouterSettings, WorkerSettings)

INTERNAL = ("VLLAMA_VLLM", STATUS_FD, RESTARTED, LISTEN_FD, PROCESS)
"""Variables that are not settings."""


class CommandFailed(click.ClickException):
    """Prints one line per problem on stderr, without passwords of addresses."""

    def show(self, file: IO[Any] | None = None) -> None:
        for line in redacted(self.message).split("\n"):
            click.echo(f"vllama: {printable(line)}", err=True)


def unreachable(what: str, where: str, why: str, cure: str) -> str:
    """Describe a failed connection. `why` may bring its own cure after a semicolon."""
    return f"{where}: {why}" if ";" in why else f"no {what} answers at {where} ({why}); {cure}"


def export(variables: dict[str, str | int | None]) -> None:
    """Set environment variables, which child processes inherit."""
    os.environ.update({name: str(value) for name, value in variables.items() if value is not None})


def warn_about_variables() -> None:
    """Warn about misspelt and unsupported variables, which have no effect."""
    known = {*variables_of(RouterSettings), *variables_of(WorkerSettings), *INTERNAL}
    for line in (*unknown_variables(os.environ, known), *warnings(os.environ)):
        click.echo(f"vllama: {line}", err=True)


def read(kind: type[SettingsT]) -> SettingsT:
    """Raises CommandFailed with one line per mistake."""
    try:
        return kind()
    except ValidationError as error:
        raise CommandFailed("\n".join(error_lines(error))) from error
