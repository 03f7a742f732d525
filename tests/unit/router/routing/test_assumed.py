"""Workers that are assumed for a table's targets."""

from __future__ import annotations

from typing import Any

from tests.support.tables import routing_table
from vllama_pool.router.routing.assumed import assumed_workers
from vllama_pool.router.routing.rules import Rules


def assumed(*names: str, served: tuple[str, ...] = (), **models: Any) -> list[tuple[str, tuple[str, ...]]]:
    workers = assumed_workers(Rules(routing_table(models=models)), names, served)
    assert len({worker.id for worker in workers}) == len(workers)
    return [(worker.models[0].name, worker.tags) for worker in workers]


def test_targets_and_fallbacks_of_the_names_have_a_worker_each() -> None:
    assert assumed(
        "m",
        served=("s",),
        m={"serve": ["x", "y"], "fallback": ["other", "z"]},
        other={"serve": "o"},
        unasked={"serve": "u"},
    ) == [("s", ()), ("x", ()), ("y", ()), ("o", ()), ("z", ())]


def test_a_patterns_targets_are_those_of_the_name() -> None:
    assert assumed("llama3-8b", "llama3-70b", **{"llama3-*": {"serve": "org/{1}"}}) == [
        ("org/8b", ()),
        ("org/70b", ()),
    ]


def test_a_worker_has_tags_that_its_entrys_selector_accepts() -> None:
    assert assumed(
        "m",
        m={
            "serve": ["x", {"model": "y", "workers": {"require": ["a100"]}}],
            "workers": {"require": ["gpu"], "any": ["old", "new"], "exclude": ["old"]},
        },
    ) == [("x", ("gpu", "new")), ("y", ("a100",))]


def test_a_name_without_a_rule_has_no_worker() -> None:
    assert assumed("unheard-of") == []
