"""The limits on requests that a routing file sets, by entry."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.router.admission.admission import RequestLimits

if TYPE_CHECKING:
    from vllama_pool.config.routing.model_entry import ModelEntry


def request_limits(table: RoutingTable) -> dict[str, RequestLimits]:
    """Return the limits of the entries that have some."""
    limits = {name.strip(): _limits(entry) for name, entry in table.models.items()}
    return {name: each for name, each in limits.items() if each is not None}


def _limits(entry: ModelEntry) -> RequestLimits | None:
    limits, scale = entry.limits, entry.scale
    own = RequestLimits(limits.concurrency, limits.queue, limits.wait) if limits is not None else None
    if scale is None or not scale.from_zero:
        return own
    return replace(own or RequestLimits(), start=scale.wait, hold=scale.hold)
