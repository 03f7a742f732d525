"""Resolution of model names to replicas."""

import random
from collections import Counter
from typing import Any

import pytest

from tests.support.balance import DRAINING, RESTARTING, Clock, found, ids, pool_of
from tests.support.keys import rights
from tests.support.tables import routing_table
from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.router.balance.policies.round_robin import RoundRobin
from vllama_pool.router.errors import NoWorker
from vllama_pool.router.routing.resolution import UnknownModel
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.workers.registry.record import LoadReport, ModelInfo
from vllama_pool.workers.registry.virtual_model import VirtualModel, key_of

TABLE = routing_table(
    models={
        "llama3.2": {
            "serve": "meta-llama/Llama-3.2-1B-Instruct",
            "aliases": ["llama3.2:1b", "Small"],
            "options": {"temperature": 0.7},
        },
        "mixed": {"serve": [{"model": "new", "weight": 3}, {"model": "old", "weight": 1}]},
        "taken": {"serve": "elsewhere", "policy": "round-robin"},
    }
)


def routes(table: RoutingTable = TABLE) -> ModelRoutes:
    return ModelRoutes(table, random.Random(3))


def test_a_served_model_needs_no_entry_in_the_routing_file() -> None:
    pool = pool_of(Clock(), found("a", "smollm2:135m"))
    resolution = routes().resolve("SMOLLM2:135m", pool)
    assert ids(resolution.replicas) == ["a"]
    assert resolution.model == "smollm2:135m"
    assert dict(resolution.defaults.options) == {}


@pytest.mark.parametrize("name", ["llama3.2", "LLAMA3.2:latest", "llama3.2:1b", "small", "library/llama3.2"])
def test_a_configured_model_is_found_by_its_name_and_aliases(name: str) -> None:
    pool = pool_of(Clock(), found("a", "meta-llama/Llama-3.2-1B-Instruct"))
    resolution = routes().resolve(name, pool)
    assert ids(resolution.replicas) == ["a"]
    assert resolution.model == "llama3.2"
    assert resolution.replicas[0].model.name == "meta-llama/Llama-3.2-1B-Instruct"
    assert resolution.defaults.options["temperature"] == 0.7


def test_a_served_name_resolves_beside_its_configured_names() -> None:
    pool = pool_of(Clock(), found("a", "meta-llama/Llama-3.2-1B-Instruct"))
    resolution = routes().resolve("meta-llama/Llama-3.2-1B-Instruct", pool)
    assert dict(resolution.defaults.options) == {}


def test_a_configured_name_wins_over_a_served_one() -> None:
    pool = pool_of(Clock(), found("a", "taken"), found("b", "elsewhere"))
    resolution = routes().resolve("taken", pool)
    assert ids(resolution.replicas) == ["b"]
    assert isinstance(resolution.policy, RoundRobin)


def test_weighted_targets_are_drawn_by_weight_and_back_each_other_up() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a", "new"), found("b", "old"))
    table, rng = routes(), random.Random(1)
    first: Counter[str] = Counter()
    for _ in range(4000):
        resolution = table.resolve("mixed", pool)
        assert ids(resolution.replicas) == ["a", "b"]
        replica = resolution.choose((), clock(), rng)
        assert replica is not None
        first[replica.model.name] += 1
    assert first["new"] / 4000 == pytest.approx(0.75, abs=0.03)
    pool.remove("a")
    assert ids(table.resolve("mixed", pool).replicas) == ["b"]


def test_an_unknown_name_raises_unknown_model() -> None:
    pool = pool_of(Clock(), found("a"))
    for name in ("nothing", "m:other", "", "a//b", "x" * 500):
        with pytest.raises(UnknownModel) as caught:
            routes().resolve(name, pool)
        assert caught.value.name == name


def test_a_model_without_an_available_worker_raises_no_worker_with_their_states() -> None:
    pool = pool_of(Clock(), found("a", load=RESTARTING), found("b", load=DRAINING))
    with pytest.raises(NoWorker) as caught:
        routes().resolve("M", pool)
    assert caught.value.status == 503
    assert caught.value.retry_after
    assert caught.value.text == (
        "no worker is available for model 'M': its workers are out: 1 draining, 1 restarting (CUDA out of memory)"
    )


@pytest.mark.parametrize("name", ["llama3.2", "gone"])
def test_a_configured_or_departed_model_without_workers_raises_no_worker(name: str) -> None:
    pool = pool_of(Clock(), found("a", "gone"))
    pool.remove("a")
    with pytest.raises(NoWorker, match=f"no worker is available for model '{name}': no worker serves it now") as caught:
        routes().resolve(name, pool)
    assert caught.value.model == name


def test_a_departed_model_has_one_canonical_name_for_all_spellings() -> None:
    pool = pool_of(Clock(), found("a", "Gone"))
    pool.remove("a")
    for name in ("gone", "GONE:latest"):
        with pytest.raises(NoWorker) as caught:
            routes().resolve(name, pool)
        assert caught.value.model == "Gone"


def test_requests_for_a_name_share_one_resolution_until_the_pools_models_change() -> None:
    pool = pool_of(Clock(), found("a"))
    table = routes()
    first = table.resolve("m", pool)
    pool.report("a", LoadReport(running=1))
    pool.mark_suspect("a")
    pool.put(found("a", slots=16))
    assert table.resolve("m", pool) is first
    pool.put(found("b", ModelInfo(name="m", digest="d" * 64)))
    second = table.resolve("m", pool)
    assert ids(second.replicas) == ["a", "b"]
    assert (first.info.digest, second.info.digest) == ("", "d" * 64)
    pool.remove("a", "b")
    with pytest.raises(NoWorker):
        table.resolve("m", pool)


def test_each_order_of_weighted_targets_is_one_shared_resolution() -> None:
    pool = pool_of(Clock(), found("a", "new"), found("b", "old"))
    table = routes()
    drawn = [table.resolve("mixed", pool) for _ in range(100)]
    assert len({id(one) for one in drawn}) == 2
    assert {one.groups[0].first.model.name for one in drawn} == {"new", "old"}


def test_a_resolution_of_another_pool_is_not_used() -> None:
    table, one, two = routes(), pool_of(Clock(), found("a")), pool_of(Clock(), found("b"))
    assert [ids(table.resolve("m", pool).replicas) for pool in (one, two, one)] == [["a"], ["b"], ["a"]]


def test_a_name_longer_than_any_valid_one_is_resolved_without_being_kept() -> None:
    pool = pool_of(Clock(), found("a", "m"))
    table = routes()
    padded = "m" + " " * 5000
    assert ids(table.resolve(padded, pool).replicas) == ["a"]
    assert table._known.cache_info().currsize == 0


def test_a_virtual_model_may_take_the_name_of_a_departed_one() -> None:
    pool = pool_of(Clock(), found("a"), found("b", "old"))
    live: dict[str, VirtualModel] = {}
    table = ModelRoutes(RoutingTable(), random.Random(3), virtual=live)
    pool.remove("b")
    with pytest.raises(NoWorker):
        table.resolve("old", pool)
    live[key_of("old")] = VirtualModel(name="old:latest", revision=1, base="m:latest")
    assert table.resolve("old", pool).virtual == "old:latest"


def test_a_changed_or_deleted_virtual_model_is_resolved_anew() -> None:
    pool = pool_of(Clock(), found("a"), found("b", "other"))
    live = {key_of("v"): VirtualModel(name="v:latest", revision=1, base="m:latest", system="one")}
    table = ModelRoutes(RoutingTable(), random.Random(3), virtual=live)
    assert table.resolve("v", pool).defaults.system == "one"
    live[key_of("v")] = VirtualModel(name="v:latest", revision=2, base="other:latest", system="two")
    assert table.resolve("v", pool).defaults.system == "two"
    assert ids(table.resolve("v", pool).replicas) == ["b"]
    del live[key_of("v")]
    with pytest.raises(UnknownModel):
        table.resolve("v", pool)
    live[key_of("v")] = VirtualModel(name="v:latest", revision=3, base="m:latest")
    assert table.resolve("v", pool).virtual == "v:latest"
    pool.put(found("c", "v"))
    assert table.resolve("v", pool).virtual == ""


def test_a_down_worker_is_chosen_if_there_is_no_other() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"))
    pool.mark_down("a")
    replica = routes().resolve("m", pool).choose((), clock(), random.Random(1))
    assert replica is not None
    assert replica.worker.id == "a"


def test_a_replica_that_has_read_its_files_describes_the_model() -> None:
    described = ModelInfo(name="m", digest="d" * 64, context_length=2048)
    pool = pool_of(Clock(), found("a", "m"), found("b", described))
    assert routes().resolve("m", pool).info is described


def test_the_listing_has_configured_names_first_and_does_not_repeat_them() -> None:
    pool = pool_of(
        Clock(),
        found("a", "meta-llama/Llama-3.2-1B-Instruct", "Taken", "smollm2:135m"),
        found("b", "smollm2:135m", load=RESTARTING),
    )
    listing = routes().list_models(pool)
    assert [(listed.name, ids(listed.replicas)) for listed in listing] == [
        ("llama3.2:latest", ["a"]),
        ("mixed:latest", []),
        ("taken:latest", []),
        ("meta-llama/Llama-3.2-1B-Instruct:latest", ["a"]),
        ("smollm2:135m", ["a", "b"]),
    ]
    assert listing[0].defaults.options["temperature"] == 0.7


def test_find_returns_a_model_in_any_state_by_any_of_its_names() -> None:
    pool = pool_of(Clock(), found("a", "Smol", load=RESTARTING))
    listed = routes().find("smol:latest", pool)
    assert listed is not None
    assert (listed.name, ids(listed.replicas)) == ("Smol:latest", ["a"])
    alias = routes().find("small", pool)
    assert alias is not None
    assert (alias.name, alias.replicas) == ("llama3.2:latest", ())
    assert routes().find("nothing", pool) is None


def test_spellings_of_one_name_are_listed_as_one_model() -> None:
    pool = pool_of(Clock(), found("a", "Llama3.2"), found("b", "llama3.2:latest"))
    listing = routes(RoutingTable()).list_models(pool)
    assert [(listed.name, ids(listed.replicas)) for listed in listing] == [("Llama3.2:latest", ["a", "b"])]
    assert ids(routes(RoutingTable()).resolve("Llama3.2", pool).replicas) == ["a"]
    assert ids(routes(RoutingTable()).resolve("LLAMA3.2", pool).replicas) == ["a", "b"]


def test_a_served_name_outside_ollamas_grammar_is_listed_unchanged() -> None:
    pool = pool_of(Clock(), found("a", "/models/llama"))
    assert [listed.name for listed in routes(RoutingTable()).list_models(pool)] == ["/models/llama"]
    assert ids(routes().resolve("/models/llama", pool).replicas) == ["a"]


def virtual(**fields: Any) -> VirtualModel:
    return VirtualModel(name="Mario:latest", revision=1, **fields)


def with_virtual(*models: VirtualModel) -> ModelRoutes:
    return ModelRoutes(TABLE, random.Random(3), virtual={key_of(model.name): model for model in models})


MARIO = virtual(
    base="llama3.2:latest",
    system="You are Mario.",
    options={"temperature": 0.1, "seed": 1},
    messages=({"role": "user", "content": "hi"},),
)


@pytest.mark.rule(85)
def test_a_virtual_model_is_routed_as_its_base_with_its_own_system_and_messages() -> None:
    pool = pool_of(Clock(), found("a", "meta-llama/Llama-3.2-1B-Instruct"))
    resolution = with_virtual(MARIO).resolve("mario", pool)
    assert ids(resolution.replicas) == ["a"]
    assert (resolution.model, resolution.listed) == ("llama3.2", "Mario:latest")
    assert resolution.defaults.system == "You are Mario."
    assert resolution.defaults.messages == MARIO.messages


def test_a_virtual_models_parameters_override_the_routing_files_options() -> None:
    pool = pool_of(Clock(), found("a", "meta-llama/Llama-3.2-1B-Instruct"))
    routes = with_virtual(MARIO, VirtualModel(name="plain:latest", revision=1, base="llama3.2:latest"))
    assert dict(routes.resolve("mario", pool).defaults.options) == {"temperature": 0.1, "seed": 1}
    assert dict(routes.resolve("plain", pool).defaults.options) == {"temperature": 0.7}


def test_the_routing_files_settings_apply_to_its_model_and_to_virtual_models_of_it() -> None:
    pool = pool_of(Clock(), found("a", "served"))
    table = routing_table(models={"base": {"serve": "served", "stream_interval": 4, "completions": "templated"}})
    plain = VirtualModel(name="plain:latest", revision=1, base="base:latest")
    routes = ModelRoutes(table, random.Random(3), virtual={key_of("plain:latest"): plain})
    assert routes.resolve("base", pool).defaults.stream_interval == 4
    assert routes.resolve("plain", pool).defaults.stream_interval == 4
    assert routes.resolve("served", pool).defaults.stream_interval == 1
    templated = [routes.resolve(name, pool).defaults.templates_completions for name in ("base", "plain", "served")]
    assert templated == [True, True, False]


def test_configured_and_served_names_shadow_virtual_ones() -> None:
    pool = pool_of(Clock(), found("a", "served"), found("b", "elsewhere"))
    taken = [VirtualModel(name=f"{name}:latest", revision=1, base="served:latest") for name in ("taken", "served")]
    routes = with_virtual(*taken)
    assert ids(routes.resolve("taken", pool).replicas) == ["b"]
    assert routes.resolve("served", pool).listed == "served:latest"
    assert not routes.resolve("served", pool).virtual
    assert set(routes.shadowed(pool)) == {"taken:latest", "served:latest"}
    assert all(listed.virtual is None for listed in routes.list_models(pool))


def test_a_virtual_model_without_an_available_base_raises_no_worker() -> None:
    routes = with_virtual(MARIO, VirtualModel(name="orphan:latest", revision=1, base="never:latest"))
    pool = pool_of(Clock(), found("a", "meta-llama/Llama-3.2-1B-Instruct", load=RESTARTING))
    for name in ("mario", "orphan"):
        with pytest.raises(NoWorker, match=f"no worker is available for model '{name}'"):
            routes.resolve(name, pool)
    pool.remove("a")
    with pytest.raises(NoWorker) as caught:
        routes.resolve("mario", pool)
    assert caught.value.model == "llama3.2"


def test_a_virtual_model_is_listed_with_its_bases_replicas() -> None:
    pool = pool_of(Clock(), found("a", "meta-llama/Llama-3.2-1B-Instruct"))
    routes = with_virtual(MARIO, VirtualModel(name="orphan:latest", revision=1, base="never:latest"))
    listed = {one.name: one for one in routes.list_models(pool)}
    assert ids(listed["Mario:latest"].replicas) == ["a"]
    assert listed["Mario:latest"].virtual is MARIO
    assert listed["orphan:latest"].replicas == ()
    assert routes.find("MARIO", pool) == listed["Mario:latest"]
    assert routes.find_base("mario", pool) is None


def test_no_virtual_model_is_the_base_of_another() -> None:
    """Otherwise two could be each other's base."""
    pool = pool_of(Clock(), found("a"))
    one = VirtualModel(name="one:latest", revision=1, base="two:latest")
    two = VirtualModel(name="two:latest", revision=1, base="one:latest")
    with pytest.raises(NoWorker):
        with_virtual(one, two).resolve("one", pool)


def test_a_model_outside_the_rights_of_a_key_is_unknown_even_without_a_worker() -> None:
    pool = pool_of(Clock(), found("a", "mine"), found("b", "theirs"))
    pool.remove("b")
    table = routes(RoutingTable())
    assert table.resolve("mine", pool, rights("mine")).model == "mine"
    for name in ("theirs", "never-served"):
        with pytest.raises(UnknownModel):
            table.resolve(name, pool, rights("mine"))
    with pytest.raises(NoWorker):
        table.resolve("theirs", pool)


def test_lists_leave_out_the_models_outside_the_rights_of_a_key() -> None:
    pool = pool_of(Clock(), found("a", "mine", "theirs"))
    live = {
        key_of(name): VirtualModel(name=name, revision=1, base=base)
        for name, base in (("v:latest", "mine:latest"), ("w:latest", "theirs:latest"))
    }
    table = ModelRoutes(RoutingTable(), random.Random(3), virtual=live)
    assert [listed.name for listed in table.list_models(pool, rights("mine"))] == ["mine:latest", "v:latest"]
    assert len(table.list_models(pool)) == 4


def test_a_virtual_model_has_the_rights_of_its_base_unless_a_served_model_shadows_it() -> None:
    made = VirtualModel(name="v:latest", revision=1, base="mine:latest")
    table = ModelRoutes(RoutingTable(), random.Random(3), virtual={key_of(made.name): made})
    pool = pool_of(Clock(), found("a", "mine"))
    assert table.resolve("V", pool, rights("mine")).virtual == "v:latest"
    assert table.find("v", pool, rights("v")) is None
    with pytest.raises(UnknownModel):
        table.resolve("v", pool, rights("v"))
    pool.put(found("b", "v"))
    assert table.resolve("v", pool, rights("v")).virtual == ""
    assert table.find("v", pool, rights("mine")) is None
