"""Explanations of single decisions."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.support.balance import DRAINING, Clock, found, pool_of, worker_in
from tests.support.tables import routing_table
from vllama_pool.config.routing.table import Place, RoutingTable
from vllama_pool.router.balance.demand import Demand
from vllama_pool.router.routing.asker import Asker
from vllama_pool.router.routing.explain import (
    Explanation,
    FallbackView,
    RuleView,
    Subject,
    TargetView,
    explain,
    known_names,
    near_names,
)
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.routing.rights import NameList, Rights
from vllama_pool.router.routing.splits import identity_hash
from vllama_pool.workers.registry.record import ModelInfo
from vllama_pool.workers.registry.virtual_model import VirtualModel, key_of

MODELS: dict[str, Any] = {
    "m": {
        "serve": [{"model": "x", "weight": 3}, {"model": "y", "weight": 1}, "nobody"],
        "aliases": ["Small:1b"],
        "split": "user",
        "fallback": {"no_worker": ["other", "gone"], "error": ["z"]},
        "limits": {"concurrency": 4},
    },
    "other": {"serve": "z", "fallback": ["gone"]},
    "gone": {"serve": "nobody"},
    "out": {"serve": "nobody", "fallback": {"no_worker": ["gone", "other"]}},
    "closed": {"serve": "x", "maintenance": "back at noon"},
    "llama*-*": {"serve": "org/{1}", "policy": "round-robin"},
}


def explained(name: str, *, user: str = "", rights: Rights | None = None, tokens: int = 0, **more: Any) -> Explanation:
    clock = Clock()
    pool = pool_of(clock, found("a", "x", "org/3"), found("b", "x", load=DRAINING), found("c", "y"), found("d", "z"))
    table = more.pop("table", routing_table(models=MODELS))
    rng = random.Random(1)
    routes = ModelRoutes(table, rng, **more)
    asker = Asker(None, {b"x-user-id": user.encode()} if user else {})
    subject = Subject(name, asker, lambda _: Demand(at_least=tokens, at_most=tokens), rights)
    return explain(routes, pool, subject, clock(), rng)


def test_the_rule_has_its_place_and_the_settings_of_its_requests() -> None:
    table = routing_table(models=MODELS)
    placed = RoutingTable(table.entries, {("models", "m"): Place("r.yaml", 2, 3)}, "abc")
    explanation = explained("M:latest", table=placed)
    assert explanation.revision == "abc"
    assert explanation.rule == RuleView(
        "m", "name", place="r.yaml:2", policy="least-load", settings={"limits": {"concurrency": 4}}
    )


@pytest.mark.parametrize(
    ("name", "entry", "by", "matched", "captures"),
    [
        ("m", "m", "name", "", ()),
        ("small:1B", "m", "alias", "Small:1b", ()),
        ("llama3-8b", "llama*-*", "pattern", "llama*-*", ("3", "8b")),
        ("Z", "z", "served", "", ()),
    ],
)
def test_the_reason_why_a_rule_decides(name: str, entry: str, by: str, matched: str, captures: tuple[str, ...]) -> None:
    rule = explained(name).rule
    assert rule is not None
    assert (rule.entry, rule.by, rule.matched, rule.captures) == (entry, by, matched, captures)


def test_every_target_has_its_share_of_those_that_are_served() -> None:
    targets = {target.model: target for target in explained("m", user="anna").targets}
    assert targets["nobody"] == TargetView("nobody", 1, 0.0, 0)
    assert [(targets[name].weight, targets[name].share, targets[name].workers) for name in "xy"] == [
        (3, 0.75, 2),
        (1, 0.25, 1),
    ]
    assert sum(target.first for target in targets.values()) == 1


def test_a_split_shows_the_hash_that_keeps_the_side() -> None:
    explanation = explained("m", user="anna")
    assert explanation.split == "user"
    assert int(explanation.identity, 16) == identity_hash("anna")
    assert explained("m").identity == ""


def test_the_chosen_worker_and_the_reasons_of_the_others() -> None:
    explanation = explained("closed", table=routing_table(models={"closed": {"serve": "x"}}))
    assert (explanation.outcome, explanation.chosen, explanation.chosen_model) == ("routed", "a", "x")
    assert [(each.worker, each.left_out) for each in explanation.candidates] == [("a", ""), ("b", "draining")]


def test_fallbacks_show_the_chain_and_those_that_would_answer_now() -> None:
    assert explained("m").fallbacks == (
        FallbackView("no_worker", ("other", "gone"), ("other",)),
        FallbackView("error", ("z",), ("z",)),
    )


def test_a_fallback_that_stands_in_is_explained_with_its_own_targets() -> None:
    explanation = explained("out")
    assert (explanation.outcome, explanation.stand_in, explanation.chosen) == ("routed", "other", "d")
    assert explanation.rule is not None
    assert explanation.rule.entry == "out"
    assert explanation.targets == (TargetView("z", 1, 1.0, 1, first=True),)


@pytest.mark.parametrize(
    ("name", "error"),
    [("gone", "no worker is available for model 'gone': no worker serves it now"), ("closed", "back at noon")],
)
def test_a_refused_request_is_explained_with_the_clients_error(name: str, error: str) -> None:
    explanation = explained(name)
    assert (explanation.outcome, explanation.error, explanation.chosen) == ("refused", error, "")
    assert explanation.rule is not None
    assert explanation.rule.entry == name
    assert len(explanation.targets) == 1


def test_a_virtual_model_is_explained_by_its_base() -> None:
    model = VirtualModel(name="mine:latest", base="other", revision=1)
    rule = explained("Mine", virtual={key_of(model.name): model}).rule
    assert rule is not None
    assert (rule.entry, rule.by, rule.virtual) == ("other", "name", "Mine")


def test_a_model_that_the_key_may_not_use_says_so() -> None:
    explanation = explained("m", rights=Rights([NameList(["other"])], lambda name: (name,)))
    assert explanation.outcome == "unknown"
    assert explanation.error == "its API key may not use the model 'm', which it sees as unknown"


def test_an_unknown_name_is_unknown() -> None:
    explanation = explained("unheard-of")
    assert (explanation.outcome, explanation.rule) == ("unknown", None)
    assert explanation.error == "the router knows no model 'unheard-of'"


def test_a_prompt_that_only_a_larger_window_holds() -> None:
    clock = Clock()
    small, large = (
        found(name, ModelInfo(name="x", context_length=window)) for name, window in (("a", 2048), ("b", 32768))
    )
    pool, rng = pool_of(clock, small, large), random.Random(1)
    routes = ModelRoutes(routing_table(), rng)
    subject = Subject("x", Asker(None), lambda _: Demand(at_least=4000, at_most=4000))
    explanation = explain(routes, pool, subject, clock(), rng)
    assert explanation.chosen == "b"
    assert {each.worker: each.left_out for each in explanation.candidates} == {
        "a": "context window 2048 is less than 4000",
        "b": "",
    }


def test_an_explanation_leaves_loads_and_random_numbers_as_they_are() -> None:
    clock = Clock()
    pool, rng = pool_of(clock, found("a", "x"), found("b", "x")), random.Random(1)
    routes = ModelRoutes(routing_table(models={"m": {"serve": ["x", "nobody"], "policy": "round-robin"}}), rng)
    before = rng.getstate()
    explanations = [explain(routes, pool, Subject("m", Asker(None)), clock(), rng) for _ in range(3)]
    assert explanations[0] == explanations[1] == explanations[2]
    assert rng.getstate() == before
    assert worker_in(pool, "a").in_flight == 0


def test_a_random_draw_stays_under_a_policy_that_asks_for_the_session() -> None:
    """The identity is the policy's alone."""
    clock = Clock()
    pool, rng = pool_of(clock, found("a", "x"), found("b", "y")), random.Random(1)
    entry = {"serve": ["x", "y"], "policy": {"type": "session", "by": "user"}}
    routes = ModelRoutes(routing_table(models={"m": entry}), rng)
    asker = Asker(None, {b"x-user-id": b"anna"})
    drawn = set()
    for _ in range(50):
        resolution = routes.resolve("m", pool)
        assert resolution.needs_asker
        drawn.add(resolution.drawn(resolution.identity(asker)).target)
    assert drawn == {"x", "y"}


def test_near_names_are_those_that_resemble_the_unknown_one() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a", "x", "Qwen/Qwen3-8B"))
    routes = ModelRoutes(routing_table(models=MODELS), random.Random(1))
    known = known_names(routes, pool, None)
    assert "Small:1b" in known
    assert near_names("qwen/qwen3-8", known) == ("Qwen/Qwen3-8B",)
    assert near_names("smal:1b", known) == ("Small:1b",)
    assert near_names("completely-different", known) == ()
    assert known_names(routes, pool, Rights([NameList(["other"])], lambda name: (name,))) == ["other:latest"]
