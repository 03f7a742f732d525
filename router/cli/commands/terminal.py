"""Tables on the terminal, or into a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from vllama_pool.router.cli.commands.common import CommandFailed

PIPED_WIDTH = 1000
"""Columns of a table that is not for a terminal: wide enough for scripts to find a worker on one line."""


def output() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=PIPED_WIDTH)


def show(terminal: Console, tables: Sequence[Table]) -> None:
    """Print them. Raises CommandFailed where they cannot be written."""
    try:
        for number, table in enumerate(tables):
            if number:
                terminal.print()
            terminal.print(table)
    except OSError as error:
        raise CommandFailed(f"cannot write the answer: {error.strerror}") from error
