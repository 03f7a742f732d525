"""Patterns, splits, fallbacks and maintenance of the routing file, resolved against a pool."""

import random
from collections import Counter
from typing import Any

import pytest

from tests.support.balance import DRAINING, RESTARTING, Clock, found, ids, pool_of, tagged
from tests.support.tables import routing_table
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.errors import NoWorker
from vllama_pool.router.routing.asker import Asker
from vllama_pool.router.routing.resolution import Resolution, UnknownModel
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.workers.registry.record import LoadReport
from vllama_pool.workers.registry.virtual_model import VirtualModel, key_of


def routes(models: dict[str, Any], *virtual: VirtualModel, previous: ModelRoutes | None = None) -> ModelRoutes:
    made = {key_of(model.name): model for model in virtual}
    return ModelRoutes(routing_table(models=models), random.Random(3), virtual=made, previous=previous)


def first(resolution: Resolution) -> str:
    return resolution.groups[0].first.model.name


# patterns


def test_a_pattern_sends_its_names_to_its_model_and_labels_them_with_the_pattern() -> None:
    pool = pool_of(Clock(), found("a", "served"), found("b", "llama3.9"))
    resolution = routes({"llama3*": {"serve": "served", "options": {"seed": 1}}}).resolve("Llama3.9:8b", pool)
    assert ids(resolution.replicas) == ["a"]
    assert (resolution.model, resolution.listed) == ("llama3*", "served:latest")
    assert resolution.defaults.options == {"seed": 1}
    assert resolution.entry is not None


def test_captures_name_the_served_model_and_its_fallback() -> None:
    pool = pool_of(Clock(), found("a", "org/Llama-8B-awq"), found("b", "base-70b"))
    table = routes({"llama-*": {"serve": "org/llama-{1}-awq", "fallback": ["base-{1}"]}})
    assert first(table.resolve("llama-8b", pool)) == "org/Llama-8B-awq"
    assert first(table.resolve("llama-70b", pool)) == "base-70b"


def test_a_pattern_without_targets_treats_served_models_and_no_other_names() -> None:
    pool = pool_of(Clock(), found("a", "Qwen/Qwen3-8B"), found("b", "gone"))
    pool.remove("b")
    table = routes({"*": {"options": {"seed": 1}}})
    assert table.resolve("qwen/qwen3-8b", pool).defaults.options == {"seed": 1}
    with pytest.raises(UnknownModel):
        table.resolve("nothing", pool)
    with pytest.raises(NoWorker, match="no worker is available for model 'gone'"):
        table.resolve("gone", pool)


def test_a_name_that_a_pattern_makes_up_is_unknown_unless_a_fallback_serves_it() -> None:
    pool = pool_of(Clock(), found("a", "base"))
    for fallback, expected in ((None, UnknownModel), (["never"], NoWorker)):
        with pytest.raises(expected):
            routes({"team-*": {"serve": "lora-{1}", "fallback": fallback}}).resolve("team-red", pool)
    stand_in = routes({"team-*": {"serve": "lora-{1}", "fallback": ["base"]}}).resolve("team-red", pool)
    assert first(stand_in) == "base"


def test_virtual_models_stay_reachable_beside_patterns_that_serve_names_by_themselves() -> None:
    pool = pool_of(Clock(), found("a", "base"))
    mario = VirtualModel(name="mario:latest", revision=1, base="base:latest", system="You are Mario.")
    for pattern, entry in (("*", {}), ("mar*", {"serve": "x-{1}"}), ("*", {"fallback": ["base"]})):
        table = routes({pattern: entry}, mario)
        assert table.resolve("mario", pool).virtual == "mario:latest"
        assert not table.is_configured("mario")
        assert table.shadowed(pool) == ()
    everything = routes({"*": {"serve": "base"}}, mario)
    assert everything.resolve("mario", pool).virtual == ""
    assert everything.is_configured("mario")
    assert everything.shadowed(pool) == ("mario:latest",)


def test_patterns_are_not_listed_and_served_models_behind_them_are() -> None:
    pool = pool_of(Clock(), found("a", "llama3-8b", "other"), found("b", "big"))
    table = routes({"llama3*": {"serve": "big", "options": {"seed": 1}}, "big": {}})
    listing = {listed.name: ids(listed.replicas) for listed in table.list_models(pool)}
    assert listing == {"big:latest": ["b"], "llama3-8b:latest": ["b"], "other:latest": ["a"]}
    listed = table.find("LLAMA3:x", pool)
    assert listed is not None
    assert (listed.name, ids(listed.replicas), listed.defaults.options) == ("LLAMA3:x", ["b"], {"seed": 1})
    assert routes({"*": {}}).find("nothing", pool) is None


def test_all_names_of_an_entry_share_one_resolution() -> None:
    pool = pool_of(Clock(), found("a", "served", "other"))
    table = routes({"llama3*": {"serve": "served"}, "plain": {"serve": "served", "aliases": ["alias"]}, "own-*": {}})
    for names in (("llama3", "llama3.1:8b"), ("plain", "PLAIN:latest", "alias")):
        assert len({id(table.resolve(name, pool)) for name in names}) == 1
    varying = routes({"*-*": {"serve": "served", "fallback": ["{2}"]}})
    assert varying.resolve("a-b", pool) is not varying.resolve("a-other", pool)
    pool.put(found("b", "served"))
    assert ids(table.resolve("llama3", pool).replicas) == ["a", "b"]


def test_names_that_clients_invent_take_bounded_memory() -> None:
    pool = pool_of(Clock(), found("a", "served"))
    table = routes({"*": {"serve": "served"}})
    for number in range(9000):
        table.resolve(f"invented-{number}", pool)
    assert table._known.cache_info().currsize <= 8192
    assert len(table._shared) == 1


# splits

SPLIT = {"serve": [{"model": "new", "weight": 1}, {"model": "old", "weight": 3}], "split": "user"}


def asker(user: str) -> Asker:
    return Asker(None, {b"x-user-id": user.encode()})


def side(table: ModelRoutes, pool: Pool, user: str, name: str = "mixed") -> str:
    resolution = table.resolve(name, pool)
    assert resolution.needs_asker
    return first(resolution.drawn(resolution.identity(asker(user))))


def test_users_keep_their_side_in_other_processes_and_after_a_reload() -> None:
    users = [f"user-{number}" for number in range(1000)]
    pool = pool_of(Clock(), found("a", "new"), found("b", "old"))
    sides = [side(routes({"mixed": SPLIT}), pool, user) for user in users]
    assert Counter(sides)["new"] == pytest.approx(250, abs=40)
    swapped = pool_of(Clock(), found("c", "old"), found("d", "new"))
    one = routes({"other": {}, "mixed": {**SPLIT, "serve": SPLIT["serve"][::-1]}})
    assert [side(one, swapped, user) for user in users] == sides


def test_a_side_without_a_worker_is_taken_by_the_other_until_it_returns() -> None:
    pool = pool_of(Clock(), found("a", "new"), found("b", "old"))
    table = routes({"mixed": SPLIT})
    of_new = next(user for user in map(str, range(100)) if side(table, pool, user) == "new")
    pool.remove("a")
    assert side(table, pool, of_new) == "old"
    pool.put(found("a", "new"))
    assert side(table, pool, of_new) == "new"


def test_requests_without_an_identity_are_drawn_at_random() -> None:
    pool = pool_of(Clock(), found("a", "new"), found("b", "old"))
    table = routes({"mixed": {**SPLIT, "split": "header:X-Team"}})
    resolution = table.resolve("mixed", pool)
    assert resolution.identity(asker("u")) == 0
    drawn = Counter(first(resolution.drawn(0)) for _ in range(2000))
    assert drawn["new"] / 2000 == pytest.approx(0.25, abs=0.05)


def test_entries_and_patterns_without_a_split_need_no_asker() -> None:
    pool = pool_of(Clock(), found("a", "new"), found("b", "old"))
    table = routes({"mixed": {**SPLIT, "split": "request"}, "any-*": SPLIT})
    assert not table.resolve("mixed", pool).needs_asker
    assert {side(table, pool, user, "any-name") for user in "abcdefgh"} == {"new", "old"}


def test_a_target_of_weight_0_serves_only_while_the_others_are_out() -> None:
    pool = pool_of(Clock(), found("a", "new"), found("b", "old"))
    table = routes({"mixed": {"serve": [{"model": "new", "weight": 0}, "old"]}})
    assert {first(table.resolve("mixed", pool)) for _ in range(50)} == {"old"}
    pool.remove("b")
    assert first(table.resolve("mixed", pool)) == "new"


# fallbacks

CHAIN = {
    "a": {"serve": "x", "fallback": {"no_worker": ["b"], "error": ["b", "c"]}},
    "b": {"serve": "y", "fallback": ["c"], "options": {"seed": 2}},
    "c": {"serve": "z", "fallback": {"overloaded": ["x2"]}},
}


def fleet(*out: str) -> Pool:
    names = {"1": "x", "2": "y", "3": "z"}
    return pool_of(Clock(), *(found(i, name, load=RESTARTING if name in out else None) for i, name in names.items()))


def test_a_model_without_a_serving_worker_goes_to_the_first_of_its_chain_that_has_one() -> None:
    assert first(routes(CHAIN).resolve("a", fleet())) == "x"
    stand_in = routes(CHAIN).resolve("a", fleet("x"))
    assert (first(stand_in), stand_in.model) == ("y", "b")
    assert stand_in.defaults.options == {"seed": 2}
    assert stand_in.asked is not None
    assert (stand_in.asked.resolution.model, stand_in.asked.reason) == ("a", "no_worker")
    assert first(routes(CHAIN).resolve("a", fleet("x", "y"))) == "z"
    with pytest.raises(NoWorker, match="for model 'a': its workers are out: 1 restarting") as caught:
        routes(CHAIN).resolve("a", fleet("x", "y", "z"))
    assert caught.value.model == "a"


def test_the_model_itself_is_used_again_as_soon_as_it_serves() -> None:
    pool = fleet("x")
    table = routes(CHAIN)
    assert table.resolve("a", pool).model == "b"
    pool.report("1", LoadReport())
    assert table.resolve("a", pool).model == "a"


def test_the_next_model_for_a_reason_is_the_first_that_was_not_tried_and_serves() -> None:
    resolution = routes(CHAIN).resolve("a", fleet())
    tried = [resolution.key]
    models = []
    while (fallback := resolution.next("error", tried)) is not None:
        tried.append(fallback.key)
        models.append(fallback.model)
    assert models == ["b", "c"]
    assert resolution.next("context", ()) is None
    without_b = routes(CHAIN).resolve("a", fleet("y")).next("error", ())
    assert without_b is not None
    assert without_b.model == "c"


def test_fallbacks_are_shared_by_requests() -> None:
    pool, table = fleet("x"), routes(CHAIN)
    assert table.resolve("a", pool) is table.resolve("a", pool)


def test_a_fallback_with_a_split_draws_for_the_asker() -> None:
    pool = pool_of(Clock(), found("a", "new"), found("b", "old"))
    table = routes({"a": {"serve": "x", "fallback": ["mixed"]}, "mixed": SPLIT})
    assert {side(table, pool, user, "a") for user in "abcdefgh"} == {"new", "old"}


def test_the_fallback_of_a_virtual_models_base_keeps_the_virtual_models_texts() -> None:
    mario = VirtualModel(name="mario:latest", revision=1, base="a:latest", system="You are Mario.")
    stand_in = routes(CHAIN, mario).resolve("mario", fleet("x"))
    assert (stand_in.model, stand_in.virtual, stand_in.listed) == ("b", "mario:latest", "mario:latest")
    assert stand_in.defaults.system == "You are Mario."
    assert stand_in.defaults.options == {"seed": 2}


def test_a_served_name_is_a_fallback_too_and_an_unknown_one_is_passed_over() -> None:
    table = routes({"a": {"serve": "x", "fallback": ["never", "Z:latest"]}})
    assert first(table.resolve("a", fleet("x"))) == "z"


# maintenance


def test_a_model_in_maintenance_is_refused_with_its_message() -> None:
    table = routes({"a": {"serve": "x", "maintenance": "new weights until 14:00"}})
    with pytest.raises(NoWorker, match=r"^new weights until 14:00$") as caught:
        table.resolve("a", fleet())
    assert (caught.value.status, caught.value.model, caught.value.retry_after) == (503, "a", None)
    listed = table.find("a", fleet())
    assert listed is not None
    assert ids(listed.replicas) == ["1"]


def test_a_model_in_maintenance_goes_to_its_fallback_and_is_none_itself() -> None:
    aside = {**CHAIN["b"], "maintenance": "away"}
    models = {**CHAIN, "a": {**CHAIN["a"], "maintenance": "away"}, "b": aside}
    assert first(routes(models).resolve("a", fleet())) == "z"
    with pytest.raises(NoWorker, match=r"^away$"):
        routes({**models, "c": {**CHAIN["c"], "maintenance": "too"}}).resolve("a", fleet())


def test_maintenance_of_a_pattern_and_of_a_base_holds_for_their_names() -> None:
    mario = VirtualModel(name="mario:latest", revision=1, base="llama-3:latest")
    table = routes({"llama-*": {"serve": "x", "maintenance": "away"}}, mario)
    for name in ("llama-3", "mario"):
        with pytest.raises(NoWorker, match=r"^away$"):
            table.resolve(name, fleet())


# reloads


def test_policies_keep_their_state_over_a_reload_where_the_entry_asks_for_the_same() -> None:
    before = {"a": {"serve": "x", "policy": "round-robin"}, "b": {"serve": "y", "policy": "round-robin"}}
    old = routes(before)
    new = routes({"b": {"serve": "z", "policy": "round-robin"}, "a": {"serve": "x"}, "c": {}}, previous=old)
    pool = fleet()
    assert new.resolve("b", pool).policy is old.resolve("b", pool).policy
    assert new.resolve("a", pool).policy is not old.resolve("a", pool).policy
    assert new.resolve("z", pool).policy is old.resolve("z", pool).policy


def test_a_resolution_outlives_its_table() -> None:
    pool = fleet()
    resolution = routes(CHAIN).resolve("a", pool)
    routes({}, previous=None).resolve("x", pool)
    pool.put(found("4", "x", load=DRAINING))
    fallback = resolution.next("error", {resolution.key})
    assert fallback is not None
    assert fallback.model == "b"


# selectors


def chosen(resolution: Resolution) -> set[str]:
    picks = (resolution.choose((), 2000.0, random.Random(seed)) for seed in range(30))
    return {pick.worker.id for pick in picks if pick is not None}


def gpus() -> Pool:
    return pool_of(
        Clock(), tagged("h", "h100", "zone-a"), tagged("a", "a100", "zone-a"), tagged("b", "a100"), tagged("plain")
    )


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({"require": ["a100", "zone-a"]}, {"a"}),
        ({"any": ["h100", "zone-a"]}, {"h", "a"}),
        ({"exclude": ["a100"]}, {"h", "plain"}),
        ({"require": ["zone-a"], "exclude": ["h100"]}, {"a"}),
        ({"prefer": ["h100"]}, {"h"}),
        ({}, {"h", "a", "b", "plain"}),
    ],
)
def test_an_entrys_requests_go_to_the_workers_of_its_selector(selector: dict[str, Any], expected: set[str]) -> None:
    resolution = routes({"big": {"serve": "m", "workers": selector}, "any-*": {"serve": "m"}}).resolve("big", gpus())
    assert chosen(resolution) == expected
    assert resolution.serving


def test_each_target_may_have_its_own_workers_in_place_of_the_entrys() -> None:
    both = [{"model": "m", "workers": {"require": ["h100"]}}, {"model": "m", "weight": 0}]
    table = routes({"big": {"serve": both, "workers": {"require": ["a100"]}}})
    pool = gpus()
    assert chosen(table.resolve("big", pool)) == {"h"}
    pool.remove("h")
    assert chosen(table.resolve("big", pool)) == {"a", "b"}


def test_workers_that_join_and_leave_are_followed() -> None:
    pool = gpus()
    table = routes({"big": {"serve": "m", "workers": {"require": ["zone-a"]}}})
    in_flight = table.resolve("big", pool)
    pool.put(tagged("late", "zone-a"), tagged("h", "h100"))
    assert chosen(table.resolve("big", pool)) == {"a", "late"}
    assert chosen(in_flight) == {"a", "late"}


def test_a_model_whose_workers_have_left_since_lacks_no_tags() -> None:
    pool = gpus()
    selected = routes({"big": {"serve": "m", "workers": {"require": ["zone-a"]}}}).resolve("big", pool)
    for worker in list(pool):
        pool.remove(worker.id)
    assert "no worker serves it now" in selected.no_worker().text


def test_a_model_without_a_worker_of_the_selector_falls_back_or_says_so() -> None:
    entry = {"serve": "m", "workers": {"require": ["b200"]}}
    with pytest.raises(NoWorker, match="for model 'big': its workers lack the tags that the routing file asks for"):
        routes({"big": entry}).resolve("big", gpus())
    stand_in = routes({"big": {**entry, "fallback": ["small"]}, "small": {"serve": "m"}}).resolve("big", gpus())
    assert stand_in.model == "small"
    listed = routes({"big": entry}).find("big", gpus())
    assert listed is not None
    assert listed.replicas == ()


def test_a_split_between_sorts_of_workers_keeps_users_on_theirs() -> None:
    sorts = [{"model": "m", "workers": {"require": [tag]}} for tag in ("h100", "a100")]
    table, pool = routes({"mixed": {"serve": sorts, "split": "user"}}), gpus()
    resolution = table.resolve("mixed", pool)
    sides = {user: chosen(resolution.drawn(resolution.identity(asker(user)))) for user in "abcdefgh"}
    assert set(map(frozenset, sides.values())) == {frozenset({"h"}), frozenset({"a", "b"})}


def test_a_fallback_is_drawn_for_a_request_that_began_before_a_side_lost_its_workers() -> None:
    pool = pool_of(Clock(), found("x", "x"), found("a", "new"), found("b", "old"))
    in_flight = routes({"a": {"serve": "x", "fallback": ["mixed"]}, "mixed": SPLIT}).resolve("a", pool)
    assert in_flight.next("error", {in_flight.key}) is not None
    pool.remove("a")
    fallback = in_flight.next("error", {in_flight.key})
    assert fallback is not None
    sides = [fallback.drawn(fallback.identity(asker(user))) for user in "abcdefgh"]
    assert {ids(each.replicas)[0] for each in sides} == {"b"}
    assert {each.target for each in sides} == {"old"}
