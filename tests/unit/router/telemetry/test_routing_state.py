"""The workers that a router process reports to its supervisor."""

from __future__ import annotations

from tests.support.balance import RESTARTING, Clock, found, pool_of
from vllama_pool.router.telemetry.routing_state import RoutedWorker, RoutingState, routing_state
from vllama_pool.workers.registry.record import ModelInfo


def test_workers_that_serve_are_reported_with_generation_and_all_names() -> None:
    model = ModelInfo(name="m", aliases=("alias",))
    pool = pool_of(Clock(), found("a", model, generation=7), found("b", load=RESTARTING), found("c"))
    pool.mark_down("c")
    assert routing_state(pool, caught_up=True, registry_problem="") == RoutingState(
        True, {"a": RoutedWorker(7, ("m", "alias"))}
    )
