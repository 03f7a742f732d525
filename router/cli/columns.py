"""Aligned columns of text, without colours and without a limit on width."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vllama_pool.config.printable import printable

GAP = "  "


def aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return one line per row, with columns as wide as their longest cell. Rows may differ in length."""
    cells = [[printable(cell) for cell in row] for row in rows]
    columns = max((len(row) for row in cells), default=0)
    widths = [max((len(row[index]) for row in cells if index < len(row)), default=0) for index in range(columns)]
    return [GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in cells]
