"""Prints tables to the terminal or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from vllama_pool.router.cli.commands.common import CommandFailed

PIPED_WIDTH = 1000
"""Wide enough that scripts find each worker on one line."""


def output() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=PIPED_WIDTH)


def show(terminal: Console, tables: Sequence[Table]) -> None:
    """Raises CommandFailed if the output cannot be written."""
    try:
        for number, table in enumerate(tables):
            if number:
                terminal.print()
            terminal.print(table)
    except OSError as error:
        raise CommandFailed(f"cannot write the output: {error.strerror}") from error
