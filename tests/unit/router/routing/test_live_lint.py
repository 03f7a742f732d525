"""Remarks on a routing file beside live workers."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.support.tables import routing_table
from vllama_pool.router.balance.described import described_pool
from vllama_pool.router.routing.lint import Remark
from vllama_pool.router.routing.live_lint import Live, live_lint
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.workers.registry.record import ModelInfo, WorkerRecord


def worker(name: str, *models: str, tags: tuple[str, ...] = ()) -> WorkerRecord:
    infos = tuple(ModelInfo(name=model, aliases=(f"{model}-alias",)) for model in models)
    return WorkerRecord(id=name, generation=1, url=f"http://{name}:8000", models=infos, tags=tags)


WORKERS = (worker("a", "x", "org/y", tags=("gpu",)), worker("b", "x", tags=("old",)))


def remarks(**sections: Any) -> list[Remark]:
    table = routing_table(**sections)
    routes = ModelRoutes(table, random.Random(1))
    return list(live_lint(Live(table, routes, described_pool(WORKERS))))


def test_a_table_whose_names_are_all_served_has_no_remarks() -> None:
    assert not remarks()
    assert not remarks(
        models={
            "m": {
                "serve": ["x", "org/y", "x-alias"],
                "fallback": ["other", "X:latest"],
                "shadow": {"model": "other", "share": 0.5},
                "workers": {"any": ["gpu", "old"], "prefer": ["static"]},
            },
            "other": {"serve": "x"},
            "org/*": {},
            "llama*": {"serve": ["x", "org/{1}"]},
        },
        workers=[{"url": "http://a:8000", "tags": ["static"]}],
        maintenance=[{"workers": ["a"], "tags": ["old"], "message": "later"}],
        teams={"t": {"models": ["m", "or*", "llama-8b"]}},
        keys={"k": {"sha256": "0" * 64, "models": ["x-alias", "llama*"]}},
    )


@pytest.mark.parametrize(("serve", "path"), [("nobody", ()), (["x", {"model": "nobody", "weight": 2}], (1,))])
def test_a_target_that_no_live_worker_serves(serve: Any, path: tuple[int, ...]) -> None:
    assert remarks(models={"m": {"serve": serve}}) == [
        Remark(("models", "m", "serve", *path), "no live worker serves 'nobody'; start one, or correct the name")
    ]


def test_a_model_that_starts_from_zero_may_have_no_worker() -> None:
    assert remarks(models={"m": {"serve": "nobody", "scale": {"from_zero": True}}}) == []


def test_a_target_whose_workers_lack_the_tags() -> None:
    assert remarks(models={"m": {"serve": "org/y", "workers": {"require": ["old"]}}}) == [
        Remark(("models", "m", "serve"), "no live worker that serves 'org/y' has the tags; correct the selector")
    ]


@pytest.mark.parametrize(("fallback", "path"), [(["x", "nobody"], (1,)), ({"error": ["nobody"]}, ("error", 0))])
def test_a_fallback_that_is_no_entry_and_not_served(fallback: Any, path: tuple[Any, ...]) -> None:
    assert remarks(models={"m": {"serve": "org/y", "fallback": fallback}}) == [
        Remark(
            ("models", "m", "fallback", *path),
            "'nobody' is not an entry, and no live worker serves it; start a worker, or correct the name",
        )
    ]


def test_a_shadow_that_is_no_entry_and_not_served() -> None:
    assert [remark.path for remark in remarks(models={"m": {"serve": "x", "shadow": {"model": "n", "share": 1}}})] == [
        ("models", "m", "shadow", "model")
    ]


@pytest.mark.parametrize("key", ["require", "any", "exclude", "prefer"])
def test_a_tag_that_no_live_worker_has(key: str) -> None:
    found = remarks(models={"m": {"serve": "x", "workers": {key: ["gpu", "typo"]}}})
    assert (
        Remark(
            ("models", "m", "workers", key, 1), "no live worker has the tag 'typo'; correct it, or start one with it"
        )
        in found
    )


def test_maintenance_of_workers_and_tags_that_do_not_exist() -> None:
    static = {"url": "http://b:8000", "name": "named"}
    found = remarks(
        workers=[static], maintenance=[{"workers": ["a", "named", "c"], "tags": ["gpu", "typo"], "message": "later"}]
    )
    assert [remark.path for remark in found] == [("maintenance", 0, "tags", 1), ("maintenance", 0, "workers", 2)]


def test_a_static_worker_that_the_router_does_not_know_yet() -> None:
    assert [remark.path for remark in remarks(workers=[{"url": "http://a:8000"}, {"url": "http://new:8000"}])] == [
        ("workers", 1)
    ]


@pytest.mark.parametrize("kind", ["teams", "keys"])
@pytest.mark.parametrize("model", ["nobody", "n*"])
def test_a_right_that_allows_nothing(kind: str, model: str) -> None:
    holder = {"models": ["x", model], **({"sha256": "0" * 64} if kind == "keys" else {})}
    assert remarks(models={"m": {"serve": "x"}}, **{kind: {"k": holder}}) == [
        Remark(
            (kind, "k", "models", 1),
            f"'{model}' allows no entry, and no model that a live worker serves; correct it, or remove it",
        )
    ]


def test_a_pattern_that_hides_served_models() -> None:
    assert remarks(models={"*": {"serve": "x"}}) == [
        Remark(
            ("models", "*"),
            "hides 'org/y', which live workers serve: requests by that name go to other models; write a narrower "
            "pattern, or an entry of that name",
        )
    ]


def test_a_pattern_that_serves_each_name_by_itself_and_matches_none() -> None:
    assert remarks(models={"llama*": {}}) == [
        Remark(("models", "llama*"), "matches no model that a live worker serves; correct the pattern")
    ]
