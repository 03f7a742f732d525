"""Plain-text columns for the terminal."""

from __future__ import annotations

from rich.table import Table

GAP = 2
"""Spaces between columns."""


def plain_table(*titles: str) -> Table:
    """Without borders, so that scripts can split it."""
    return Table(*titles, box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="")
