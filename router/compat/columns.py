"""Plain-text columns for the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from vllama_pool.config.printable import printable

GAP = 2
"""Spaces between columns."""


def plain_table(*titles: str) -> Table:
    """Without borders, so that scripts can split it."""
    return Table(*titles, box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="")


def add_row(table: Table, *cells: str | Text) -> None:
    """Add cells as they are: without markup, emoji codes (`:100:`) and control characters."""
    table.add_row(*map(plain, cells))


def plain(cell: str | Text) -> Text:
    return cell if isinstance(cell, Text) else Text(printable(cell))
