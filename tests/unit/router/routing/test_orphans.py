"""Models in use that a new routing table would leave without a worker."""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any

import pytest

from tests.support.balance import Clock, found, pool_of, worker_in
from tests.support.tables import routing_table
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.routing.orphans import WorkerChanges, find_orphans
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.workers.registry.virtual_model import VirtualModel, key_of

OLD = {"chat": {"serve": "org/big", "aliases": ["bot"]}}
VIRTUAL = VirtualModel(name="mine:latest", revision=1, base="chat")


def routes(models: dict[str, Any]) -> ModelRoutes:
    return ModelRoutes(routing_table(models=models), random.Random(1), virtual={key_of(VIRTUAL.name): VIRTUAL})


@pytest.fixture
def pool() -> Pool:
    return pool_of(Clock(), found("a", "org/big"), found("b", "org/small"), found("static/c", "org/static"))


def orphans(pool: Pool, new: dict[str, Any], *names: str, removed: Collection[str] = (), added: bool = False) -> str:
    changes = WorkerChanges(removed, added=added)
    return " ".join(find_orphans(names, routes(OLD), routes(new), pool, changes))


@pytest.mark.parametrize(
    ("new", "names", "orphaned"),
    [
        (OLD, ("chat", "bot", "org/big", "org/small", "unknown"), ""),
        ({}, ("chat", "bot"), "bot chat"),
        ({}, ("org/big", "org/small"), ""),
        ({}, ("CHAT:latest",), "CHAT:latest"),
        ({"chat": {"serve": "org/big"}}, ("chat", "bot"), "bot"),
        ({"bot": {"serve": "org/small"}}, ("chat", "bot"), "chat"),
        ({"chat": {"serve": "org/bgi"}}, ("chat",), "chat"),
        ({"chat": {"serve": ["org/bgi", "org/small"]}}, ("chat",), ""),
        ({"chat": {"serve": "org/bgi", "fallback": ["org/small"]}}, ("chat", "bot"), "bot"),
        ({"chat": {"serve": "org/later", "scale": {"from_zero": True}}}, ("chat", "bot"), "bot"),
        ({}, ("mine",), "mine"),
        ({}, (), ""),
    ],
)
def test_a_name_is_orphaned_if_some_worker_served_it_and_none_would(
    pool: Pool, new: dict[str, Any], names: tuple[str, ...], orphaned: str
) -> None:
    assert orphans(pool, new, *names) == orphaned


def test_a_name_that_nobody_serves_now_is_not_orphaned(pool: Pool) -> None:
    pool.remove("a")
    assert orphans(pool, {}, "chat", "bot", "org/big") == ""


def test_a_model_whose_workers_are_down_still_counts_as_served(pool: Pool) -> None:
    worker_in(pool, "a").mark_down()
    assert orphans(pool, OLD, "chat") == ""
    assert orphans(pool, {}, "chat") == "chat"


def test_a_removed_static_worker_orphans_what_it_alone_serves(pool: Pool) -> None:
    assert orphans(pool, OLD, "org/static", "chat", removed=["static/c"]) == "org/static"
    pool.put(found("d", "org/static"))
    assert orphans(pool, OLD, "org/static", "chat", removed=["static/c"]) == ""


def test_an_added_worker_gets_the_benefit_of_the_doubt_for_names_that_are_still_known(pool: Pool) -> None:
    assert orphans(pool, OLD, "org/static", removed=["static/c"], added=True) == ""
    assert orphans(pool, {"chat": {"serve": "org/new"}}, "chat", added=True) == ""
    assert orphans(pool, {}, "chat", added=True) == "chat"
