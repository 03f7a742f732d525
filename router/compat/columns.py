"""Plain-text columns for the terminal."""

from __future__ import annotations

from rich.table import Table

GAP = 2
"""Spaces between two columns."""


def plain_table(*titles: str) -> Table:
    """A table without lines, which scripts can split."""
    return Table(*titles, box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="")
