"""Workers that the routing file sets aside: they get no further requests, and finish those in progress."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vllama_pool.config.routing.table import STATIC, RoutingTable
from vllama_pool.workers.registry.record import WorkerRecord


class Maintenance:
    """The messages by worker: by its id, by its name in the file, then by its tags."""

    def __init__(self, table: RoutingTable) -> None:
        by_name: dict[str, str] = {}
        self._by_tag: dict[str, str] = {}
        for worker in table.workers:
            if worker.maintenance is not None:
                by_name.setdefault(STATIC + worker.label, worker.maintenance)
        for entry in table.entries.maintenance:
            for name in entry.workers:
                by_name.setdefault(name, entry.message)
            for tag in entry.tags:
                self._by_tag.setdefault(tag, entry.message)
        self._by_name = by_name

    def __repr__(self) -> str:
        return f"<Maintenance of {len(self._by_name)} workers, {len(self._by_tag)} tags>"

    def message(self, record: WorkerRecord) -> str:
        """Return the message for a worker that is set aside; "" for others."""
        names = (record.id, record.id.removeprefix(STATIC))
        return _first(self._by_name, names) or _first(self._by_tag, record.tags)


def _first(messages: dict[str, str], keys: Iterable[str]) -> str:
    found: Iterator[str] = (messages[key] for key in keys if key in messages)
    return next(found, "")
