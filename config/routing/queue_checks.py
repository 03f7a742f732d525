"""Finds models whose requests are to wait for a worker, although a setting lets none wait. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from vllama_pool.config.routing.places import Place, Problem, dotted
from vllama_pool.config.routing.table import RoutingTable


def unable_to_wait(table: RoutingTable, max_queue: int) -> Iterator[Problem]:
    """Yield a warning for each entry that may be without a worker, and whose requests would be refused then.

    `max_queue`: the setting, which holds for entries without a limit of their own.
    """
    if max_queue > 0:
        return
    for name, entry in table.models.items():
        limits = entry.limits
        has_room = limits is not None and (limits.queue is not None or limits.concurrency is not None)
        if entry.scale is not None and entry.scale.from_zero and not has_room:
            path = ("models", name, "scale", "from_zero")
            message = (
                "no request can wait for a worker, because VLLAMA_MAX_QUEUE or OLLAMA_MAX_QUEUE is 0; raise it, or "
                "write limits.queue"
            )
            yield Problem(table.places.get(path) or Place(""), dotted(path), message)
