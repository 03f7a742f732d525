"""The routes of one table after another."""

from __future__ import annotations

import gc
import random
import weakref

from tests.support.balance import Clock, found, ids, pool_of
from tests.support.tables import routing_table
from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.router.routing.live import LiveRoutes
from vllama_pool.router.routing.resolve import ModelRoutes


def test_prepared_routes_take_effect_in_one_step_and_what_was_resolved_stays() -> None:
    pool = pool_of(Clock(), found("a", "x"), found("b", "y"))
    made_after: list[ModelRoutes | None] = []

    def build(table: RoutingTable, before: ModelRoutes | None) -> ModelRoutes:
        made_after.append(before)
        return ModelRoutes(table, random.Random(1))

    live = LiveRoutes(routing_table(models={"m": {"serve": "x"}}), build)
    first = live()
    resolution = first.resolve("m", pool)
    apply = live.prepare(routing_table(models={"m": {"serve": "y"}}))
    assert live() is first
    assert live.next is not first
    apply()
    assert live() is live.next
    assert made_after == [None, first]
    assert ids(live().resolve("m", pool).replicas) == ["b"]
    assert ids(resolution.replicas) == ["a"]


def test_requests_in_flight_still_find_the_fallbacks_of_replaced_routes() -> None:
    pool = pool_of(Clock(), found("a", "x"), found("b", "y"))
    table = routing_table(models={"m": {"serve": "x", "fallback": ["n"]}, "n": {"serve": "y"}})
    live = LiveRoutes(table, lambda table, before: ModelRoutes(table, random.Random(1), previous=before))
    resolution = live().resolve("m", pool)
    live.prepare(routing_table(models={"m": {"serve": "x"}}))()
    fallback = resolution.next("error", ())
    assert fallback is not None
    assert ids(fallback.replicas) == ["b"]


def test_replaced_routes_are_freed_without_the_garbage_collector() -> None:
    """Those of a large table would pause the event loop while it walks them."""
    tables = [routing_table(models={"m": {"serve": served}}) for served in ("x", "y")]
    live = LiveRoutes(tables[0], lambda table, before: ModelRoutes(table, random.Random(1), previous=before))
    replaced = weakref.ref(live())
    gc.disable()
    try:
        live.prepare(tables[1])()
        assert replaced() is None
    finally:
        gc.enable()
