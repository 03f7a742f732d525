"""The limits on requests that a routing file sets, by entry."""

from __future__ import annotations

from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.router.admission.admission import RequestLimits


def request_limits(table: RoutingTable) -> dict[str, RequestLimits]:
    """Return the limits of the entries that have some."""
    return {
        name.strip(): RequestLimits(entry.limits.concurrency, entry.limits.queue, entry.limits.wait)
        for name, entry in table.models.items()
        if entry.limits is not None
    }
