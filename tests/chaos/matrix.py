"""All rows."""

from __future__ import annotations

from collections.abc import Collection

from tests.chaos.row import Row, Rows
from tests.chaos.rows import clients, config, network, overload, registry, routers, slow_readers, workers


def matrix() -> Rows:
    rows = Rows()
    for module in (workers, registry, network, routers, clients, slow_readers, overload, config):
        module.add(rows)
    return rows


def chosen(names: Collection[str] = (), *, full: bool = False) -> list[Row]:
    """Return the rows with these names, or all; those of one plan next to each other. Raises KeyError."""
    rows = matrix().all()
    if unknown := {name.upper() for name in names} - {row.name for row in rows}:
        raise KeyError(", ".join(sorted(unknown)))
    found = [row for row in rows if not names or row.name in {name.upper() for name in names}]
    plans = list(dict.fromkeys(id(row.plan_of(full=full)) for row in found))
    return sorted(found, key=lambda row: (plans.index(id(row.plan_of(full=full))), row.number))
