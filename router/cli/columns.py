"""Aligned columns of text, without colours and without a limit on width."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from vllama_pool.config.printable import printable

GAP = "  "


def aligned(rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Return one line per row, with columns as wide as their longest cell. Rows may differ in length.

    `right`: the columns that are flush right, from 0.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    columns = max((len(row) for row in cells), default=0)
    widths = [max((len(row[index]) for row in cells if index < len(row)), default=0) for index in range(columns)]
    return [GAP.join(_fill(row, widths, right)).rstrip() for row in cells]


def _fill(row: Sequence[str], widths: Sequence[int], right: Collection[int]) -> Iterable[str]:
    for index, (cell, width) in enumerate(zip(row, widths, strict=False)):
        yield cell.rjust(width) if index in right else cell.ljust(width)
