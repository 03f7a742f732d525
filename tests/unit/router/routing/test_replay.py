"""Recorded requests, replayed through another routing table."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from tests.support.balance import Clock, found, pool_of
from tests.support.tables import routing_table
from vllama_pool.router.routing.replay import (
    Comparison,
    Destination,
    Move,
    Recorded,
    Refusal,
    Replay,
    RuleChange,
    compare,
    flows,
    recorded_destination,
)
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.routing.rights import NameList, Rights
from vllama_pool.router.routing.splits import identity_hash


def replay(rights: Rights | None = None, **models: Any) -> Replay:
    pool = pool_of(Clock(), found("a", "x"), found("b", "y"), found("c", "z"))
    return Replay(ModelRoutes(routing_table(models=models), random.Random(1)), pool, lambda key: rights)


def recorded(target: str = "x", requested: str = "m", **fields: Any) -> Recorded:
    return Recorded(requested, fields.pop("model", "m"), target.partition(" ")[0], target, **fields)


def canary(x: int, y: int, **more: Any) -> dict[str, Any]:
    return {"serve": [{"model": "x", "weight": x}, {"model": "y", "weight": y}], **more}


def run(replay: Replay, *records: Recorded) -> Comparison:
    return compare(records, recorded_destination, replay.destination)


def test_requests_that_go_where_they_went_are_unchanged() -> None:
    comparison = run(replay(m={"serve": "x"}), recorded(), recorded())
    assert (comparison.requests, comparison.unchanged, comparison.moved) == (2, 2, 0)
    assert not comparison.moves
    assert not comparison.refusals
    assert not comparison.rules


def test_another_target_moves_whole_requests() -> None:
    comparison = run(replay(m={"serve": "y"}), recorded(), recorded())
    assert comparison.moves == {Move("m", "m", "m", "x", "y"): 2}
    assert not comparison.drawn
    assert comparison.unchanged == 0


def test_a_random_draw_moves_the_difference_of_the_shares() -> None:
    before = recorded(shares={"x": 0.95, "y": 0.05})
    comparison = run(replay(m=canary(3, 1)), *[before] * 100)
    assert comparison.moves == {Move("m", "m", "m", "x", "y"): pytest.approx(20)}
    assert comparison.drawn == set(comparison.moves)
    assert comparison.unchanged == pytest.approx(80)


@pytest.mark.parametrize(("weights", "movers"), [((9, 1), set[str]()), ((0, 1), {"x"}), ((3, 1), {"x"})])
def test_a_sticky_draw_moves_exactly_those_whose_side_changes(weights: tuple[int, int], movers: set[str]) -> None:
    """The prediction is what the router draws for the same user."""
    before, after = replay(m=canary(9, 1, split="user")), replay(m=canary(*weights, split="user"))
    users = [f"user-{number}" for number in range(300)]
    records = [recorded(split="user", identity=f"{identity_hash(user):016x}") for user in users]
    comparison = compare(records, before.destination, after.destination)
    assert not comparison.drawn
    assert {move.before for move in comparison.moves} == movers
    pool = pool_of(Clock(), found("a", "x"), found("b", "y"))
    routes = [
        ModelRoutes(routing_table(models={"m": canary(*each, split="user")}), random.Random(2))
        for each in ((9, 1), weights)
    ]
    moved: Counter[tuple[str, str]] = Counter()
    for user in users:
        sides = [each.resolve("m", pool).drawn(identity_hash(user)).target for each in routes]
        if sides[0] != sides[1]:
            moved[sides[0], sides[1]] += 1
    assert {(move.before, move.after): count for move, count in comparison.moves.items()} == moved


def test_a_split_by_key_needs_no_recorded_identity() -> None:
    target = replay(m=canary(1, 1, split="key"))
    destination = target.destination(recorded(key="anna"))
    assert destination.is_exact
    assert destination == target.destination(recorded(key="anna"))


@pytest.mark.parametrize("fields", [{}, {"split": "user", "identity": "00000000000000ab"}])
def test_an_identity_of_another_trait_is_replayed_as_a_share(fields: dict[str, str]) -> None:
    destination = replay(m=canary(1, 3, split="conversation")).destination(recorded(**fields))
    assert destination.shares == {"x": 0.25, "y": 0.75}


def test_a_name_that_nothing_finds_any_more_becomes_unroutable_with_its_keys() -> None:
    comparison = run(replay(), recorded(key="ci"), recorded(key="ci"), recorded())
    refusal = Refusal("m", "m", "unknown model")
    assert comparison.refusals == {refusal: 3}
    assert comparison.refused_keys[refusal] == {"ci": 2, "": 1}


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"serve": "unserved"}, "no worker is available for model 'm': no worker serves it now"),
        ({"serve": "x", "maintenance": "back at noon"}, "back at noon"),
        ({"serve": "x", "limits": {"context": 10}}, "prompts longer than the limit of 10 tokens"),
    ],
)
def test_a_request_that_the_table_refuses_becomes_unroutable(entry: dict[str, Any], reason: str) -> None:
    comparison = run(replay(m=entry), recorded(prompt_tokens=11, operation="v1 chat"))
    assert [refusal.reason for refusal in comparison.refusals] == [reason]


@pytest.mark.parametrize(("tokens", "operation"), [(10, "v1 chat"), (11, "chat"), (11, "generate")])
def test_a_prompt_that_fits_or_is_shortened_stays(tokens: int, operation: str) -> None:
    entry = {"serve": "x", "limits": {"context": 10}}
    assert run(replay(m=entry), recorded(prompt_tokens=tokens, operation=operation)).unchanged == 1


def test_a_prompt_above_the_limit_moves_to_the_fallback_for_it() -> None:
    entry = {"serve": "x", "limits": {"context": 10}, "fallback": {"context": ["z"]}}
    assert run(replay(m=entry), recorded(prompt_tokens=11)).moves == {Move("m", "m", "m", "x", "z"): 1}


def test_a_model_that_a_key_may_not_use_becomes_unroutable_for_it() -> None:
    rights = Rights([NameList(["other"])], lambda name: (name,))
    comparison = run(replay(rights, m={"serve": "x"}), recorded(key="ci"))
    assert list(comparison.refusals) == [Refusal("m", "m", "unknown model")]


def test_a_fallback_without_a_worker_for_the_target_is_a_move() -> None:
    comparison = run(replay(m={"serve": "unserved", "fallback": ["z"]}), recorded())
    assert comparison.moves == {Move("m", "m", "m", "x", "z"): 1}


def test_requests_that_were_refused_count_apart() -> None:
    comparison = run(replay(m={"serve": "x"}), recorded("", "unknown", model=""), recorded("", model=""))
    assert (comparison.still_refused, dict(comparison.admitted)) == (1, {"m": 1})
    assert not comparison.refusals


def test_an_alias_that_another_entry_takes_is_decided_by_another_rule() -> None:
    comparison = run(replay(m={"serve": "y"}, other={"serve": "x", "aliases": ["small"]}), recorded(requested="small"))
    assert comparison.rules == {RuleChange("small", "m", "other"): 1}
    assert comparison.unchanged == 1


def test_a_virtual_model_is_replayed_by_its_base_unless_the_table_has_its_name() -> None:
    mine = recorded(requested="mine", virtual="mine:latest", model="m")
    assert run(replay(m={"serve": "y"}), mine).moves == {Move("mine", "m", "m", "x", "y"): 1}
    assert run(replay(m={"serve": "x"}, mine={"serve": "y"}), mine).moves == {Move("mine", "m", "mine", "x", "y"): 1}


def test_the_flows_between_two_distributions_are_the_least_ones() -> None:
    changes = list(flows({"a": 0.5, "b": 0.5}, {"a": 0.2, "b": 0.4, "c": 0.3, "d": 0.1}))
    assert {(source, target) for source, target, _ in changes} == {("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")}
    assert sum(share for *_, share in changes) == pytest.approx(0.4)
    assert not list(flows({"a": 1 / 3, "b": 2 / 3}, {"a": 1 - 2 / 3, "b": 2 / 3}))


def test_a_destination_with_one_target_is_exact() -> None:
    assert Destination("m", {"x": 1.0}).is_exact
    assert not Destination("m", {"x": 0.5, "y": 0.5}).is_exact
