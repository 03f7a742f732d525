"""The workers that a router process routes to, as it reports them to its supervisor."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from vllama_pool.router.balance.worker import Worker

ROUTING = "routing"
"""Name of the report."""


class RoutedWorker(msgspec.Struct, frozen=True):
    generation: int
    models: tuple[str, ...] = ()
    """All names."""


class RoutingState(msgspec.Struct, frozen=True):
    caught_up: bool
    """True once it has read the registry's workers and virtual models."""
    workers: dict[str, RoutedWorker]
    """Those that can get requests, or that operators drain, by id."""
    registry_problem: str = ""
    revision: str = ""
    """Of the live routing table; "" without a routing file."""


def routing_state(
    workers: Iterable[Worker], *, caught_up: bool, registry_problem: str, revision: str = ""
) -> RoutingState:
    routed = {
        worker.id: RoutedWorker(
            worker.record.generation, tuple(name for model in worker.record.models for name in model.names)
        )
        for worker in workers
        if (worker.is_open or (worker.drained and worker.serving)) and not worker.down
    }
    return RoutingState(caught_up, routed, registry_problem, revision)
