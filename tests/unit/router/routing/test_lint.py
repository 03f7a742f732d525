"""Remarks on valid routing files."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.tables import routing_table
from vllama_pool.config.routing.table import Place, RoutingTable
from vllama_pool.router.routing.lint import Remark, lint, place_of


def remarks(**sections: Any) -> list[Remark]:
    return list(lint(routing_table(**sections)))


def entry_remarks(**entry: Any) -> list[tuple[str, str]]:
    """Return the remarks on the entry "m": the last key and the message."""
    found = remarks(models={"m": entry})
    assert all(remark.path[:2] == ("models", "m") for remark in found)
    return [(".".join(str(part) for part in remark.path[2:]), remark.message) for remark in found]


def test_a_table_without_surprises_has_no_remarks() -> None:
    assert not remarks()
    assert not remarks(
        models={
            "a": {
                "serve": [{"model": "x", "weight": 19}, {"model": "y", "weight": 1}],
                "split": "user",
                "aliases": ["b", "c"],
                "fallback": ["z"],
                "workers": {"require": ["gpu"], "any": ["a", "b"], "exclude": ["b"], "prefer": ["a"]},
                "shadow": {"model": "z", "share": 0.1},
            },
            "llama3*": {"serve": "x"},
            "llama*": {"serve": "x"},
            "x": {},
        },
        teams={"research": {}},
        keys={"anna": {"sha256": "0" * 64, "team": "research"}},
    )


@pytest.mark.parametrize(
    ("patterns", "unreachable"),
    [
        (("llama*", "llama3*"), {"llama3*": "llama*"}),
        (("*", "a*", "*b", "a*b"), {"a*": "*", "*b": "*", "a*b": "*"}),
        (("a*b", "a*c*b", "aXb*"), {"a*c*b": "a*b"}),
        (("a*b*c", "a*c", "abc*", "a*bb*bc"), {"a*bb*bc": "a*b*c"}),
        (("library/llama*", "llama3*"), {"llama3*": "library/llama*"}),
        (("LLAMA*", "llama3*"), {"llama3*": "LLAMA*"}),
        (("llama3*", "llama*"), {}),
        (("a*", "*a"), {}),
        (("*ab", "*b"), {}),
    ],
)
def test_a_pattern_after_one_that_matches_all_of_its_names(
    patterns: tuple[str, ...], unreachable: dict[str, str]
) -> None:
    assert remarks(models={name: {"serve": "x"} for name in patterns}) == [
        Remark(
            ("models", name),
            f"never applies: '{first}' matches all of its names and comes first; move it up, or remove it",
        )
        for name, first in unreachable.items()
    ]


def test_a_pattern_that_matches_the_served_names_of_other_entries() -> None:
    models = {"a": {"serve": ["org/x", "org/y"]}, "b": {"serve": "z"}, "org/*": {"serve": "z"}}
    assert remarks(models=models) == [
        Remark(
            ("models", "org/*"),
            "also matches 'org/x', which 'a' serves, and 1 more: requests by that name come here; write a narrower "
            "pattern, or an entry of that name",
        )
    ]


@pytest.mark.parametrize("entry", [{}, {"serve": "org/{1}"}, {"serve": ["org/{1}", "z"]}])
def test_a_pattern_that_serves_each_name_by_itself_hides_none(entry: dict[str, Any]) -> None:
    assert not remarks(models={"a": {"serve": "org/x"}, "org/*": entry})


def test_an_alias_that_hides_the_served_model_of_another_entry() -> None:
    models = {"a": {"serve": "x", "aliases": ["b", "ORG/Big"]}, "c": {"serve": "org/big:latest"}}
    assert remarks(models=models) == [
        Remark(
            ("models", "a", "aliases", 1),
            "'ORG/Big' is also a model that 'c' serves, whose own name now means 'a'; rename the alias",
        )
    ]


def test_an_alias_for_a_model_that_the_entry_serves_itself_hides_nothing() -> None:
    assert not remarks(models={"a": {"serve": "x", "aliases": ["x"]}, "b": {"serve": "x"}})


def test_a_target_of_weight_0() -> None:
    assert entry_remarks(serve=[{"model": "x"}, {"model": "y", "weight": 0}]) == [
        (
            "serve.1.weight",
            "0: 'y' gets requests only while no other target has a worker; write a weight above 0, or remove it",
        )
    ]


@pytest.mark.parametrize("serve", [{}, {"serve": "x"}, {"serve": ["x"]}])
def test_a_split_of_one_target(serve: dict[str, Any]) -> None:
    assert entry_remarks(split="user", **serve) == [
        ("split", "has no effect on one target; add targets to 'serve', or remove it")
    ]


@pytest.mark.parametrize(
    ("selector", "key", "message"),
    [
        ({"any": ["a", "b"], "exclude": ["b", "a"]}, "any", "all of its tags are excluded, so that no worker matches"),
        ({"prefer": ["a"], "exclude": ["a"]}, "prefer", "'a' is excluded, so that no worker is preferred for it"),
    ],
)
def test_a_selector_that_contradicts_itself(selector: dict[str, Any], key: str, message: str) -> None:
    assert entry_remarks(workers=selector) == [(f"workers.{key}", f"{message}; remove one")]
    target = {"model": "x", "workers": selector}
    assert entry_remarks(serve=[target, "y"]) == [(f"serve.0.workers.{key}", f"{message}; remove one")]


@pytest.mark.parametrize(("fallback", "path"), [(["z", "x", "z"], ""), ({"error": ["z", "x", "z"]}, ".error")])
def test_fallbacks_that_lead_nowhere_new(fallback: Any, path: str) -> None:
    assert entry_remarks(serve=["x", "y"], fallback=fallback) == [
        (f"fallback{path}.1", "'x' is served by this entry anyway; name another model"),
        (f"fallback{path}.2", "'z' is listed twice; remove one"),
    ]


@pytest.mark.parametrize("model", ["m", "x"])
def test_a_shadow_of_the_entry_itself(model: str) -> None:
    assert entry_remarks(serve="x", shadow={"model": model, "share": 0.5}) == [
        (
            "shadow.model",
            f"'{model}' is what the entry serves, so that its workers get requests twice; name another model",
        )
    ]


def test_a_shadow_without_a_share() -> None:
    assert entry_remarks(serve="x", shadow={"model": "y", "share": 0}) == [
        ("shadow.share", "0 copies nothing; write a share above 0, or remove it")
    ]


def test_a_fallback_that_is_in_maintenance() -> None:
    models = {"m": {"serve": "x", "fallback": ["later", "z"]}, "later": {"serve": "y", "maintenance": "back at noon"}}
    assert remarks(models=models) == [
        Remark(("models", "m", "fallback", 0), "'later' is in maintenance and answers nothing; name another model")
    ]


@pytest.mark.parametrize(
    ("entry", "path", "message"),
    [
        (
            {"limits": {"output": 100, "context": 100}},
            "limits.output",
            "100 is not less than 'context', 100, which also holds the prompt; lower it, or raise 'context'",
        ),
        (
            {"retries": {"attempts": 1, "budget": 0.5}},
            "retries.budget",
            "has no effect on one attempt; raise 'attempts', or remove it",
        ),
    ],
)
def test_limits_and_retries_without_effect(entry: dict[str, Any], path: str, message: str) -> None:
    assert entry_remarks(**entry) == [(path, message)]


@pytest.mark.parametrize(
    "entry",
    [
        {"limits": {"wait": 3.0, "concurrency": 2, "queue": 1}},
        {"limits": {"queue": 1, "output": 99, "context": 100}},
        {"retries": {"attempts": 1}},
        {"retries": {"attempts": 2, "budget": 0.5}},
    ],
)
def test_limits_and_retries_with_an_effect(entry: dict[str, Any]) -> None:
    assert not entry_remarks(**entry)


@pytest.mark.parametrize(
    ("team", "key", "warned"),
    [
        (["a"], ["b"], True),
        (["a"], ["b", "alias"], False),
        (["*"], ["b"], False),
        (None, ["b"], False),
        (["a"], None, False),
    ],
)
def test_a_key_whose_team_allows_none_of_its_models(team: Any, key: Any, warned: bool) -> None:
    found = remarks(
        models={"a": {"aliases": ["alias"]}, "b": {}},
        teams={"t": {"models": team}},
        keys={"k": {"sha256": "0" * 64, "team": "t", "models": key}},
    )
    message = "the team 't' allows none of these models; add one to the team, or correct the key"
    assert found == ([Remark(("keys", "k", "models"), message)] if warned else [])


def test_a_team_without_keys() -> None:
    assert remarks(teams={"research": {}}) == [
        Remark(("teams", "research"), "no key belongs to it; name it as 'team' of a key, or remove it")
    ]


def test_a_remark_is_placed_at_its_key_or_at_the_nearest_enclosing_one() -> None:
    table = RoutingTable(places={("models",): Place("f", 1, 1), ("models", "a"): Place("f", 2, 3)})
    assert place_of(table, ("models", "a", "serve", 0, "weight")) == Place("f", 2, 3)
    assert place_of(table, ("models", "b")) == Place("f", 1, 1)
    assert place_of(table, ("workers",)) is None
