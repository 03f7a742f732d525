"""Text in columns for the terminal."""

from __future__ import annotations

from rich.table import Table

GAP = 2
"""Blanks between two columns."""


def plain(*titles: str) -> Table:
    """Words in columns, no lines: it reads well, and scripts can split it."""
    return Table(*titles, box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="")
