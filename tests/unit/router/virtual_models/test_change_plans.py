"""Plans for create, copy and delete requests, without a registry."""

from __future__ import annotations

import dataclasses
import random
import time
from typing import Any

import msgspec
import pytest

from tests.support.balance import Clock, found, pool_of
from tests.support.keys import rights
from tests.support.tables import routing_table
from vllama_pool.router.errors import ClientError, Forbidden, ModelNotFound, TooLarge
from vllama_pool.router.protocol.ollama.copying import CopyRequest
from vllama_pool.router.protocol.ollama.create import MAX_ADDED, decode_create
from vllama_pool.router.protocol.ollama.requests import default_messages
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.virtual_models.change_plans import (
    UNSIGNED,
    BaseMissing,
    Inventory,
    NewModel,
    plan_copy,
    plan_create,
    plan_delete,
    plan_pull,
)
from vllama_pool.router.virtual_models.store import ModelStore
from vllama_pool.workers.registry.record import ModelInfo
from vllama_pool.workers.registry.signature import MAX_ENVELOPE
from vllama_pool.workers.registry.virtual_model import VirtualModel, key_of, sign_model, verify_model

TABLE = routing_table(models={"friendly:8b": {"serve": "Org/M", "aliases": ["short"], "options": {"temperature": 0.5}}})
DIGEST = "d" * 64
SERVED = ModelInfo(name="Org/M", digest=DIGEST, template="{{ messages }}")
LORA = ModelInfo(name="pirate", parent="Org/M", digest="e" * 64)


def inventory(*live: VirtualModel, refusal: str = "") -> Inventory:
    store = ModelStore()
    for model in live:
        store.merge(model)
    routes = ModelRoutes(TABLE, random.Random(1), virtual=store.live)
    return Inventory(routes, pool_of(Clock(), found("a", SERVED, LORA)), store.live, refusal)


def create(now: Inventory, **fields: Any) -> NewModel:
    fields["from"] = fields.pop("source", "Org/M")
    return plan_create(decode_create(msgspec.json.encode({"model": "v", **fields})), now)


OLD = VirtualModel(
    name="Old:latest",
    revision=4,
    base="friendly:8b",
    system="old",
    options={"temperature": 0.1, "seed": 1},
    messages=({"role": "user", "content": "hi"},),
    licenses=("free",),
)


@pytest.mark.rule(15)
@pytest.mark.parametrize(
    ("source", "base"),
    [
        ("Org/M", "Org/M:latest"),
        ("org/m:LATEST", "Org/M:latest"),
        ("short", "friendly:8b"),
        ("pirate", "pirate:latest"),
        ("old", "friendly:8b"),
    ],
)
def test_any_model_of_the_pool_can_be_the_base(source: str, base: str) -> None:
    assert create(inventory(OLD), source=source, system="s").model.base == base


@pytest.mark.rule(108)
def test_system_parameters_and_messages_are_kept() -> None:
    made = create(
        inventory(),
        model="My-Model:7b",
        system="be brief",
        parameters={"temperature": 1, "stop": ["a", "b"], "seed": None, "mirostat": 2},
        messages=[{"role": "User", "content": "hi", "images": None}, {"role": "assistant", "content": "yes"}],
        license=["one", "two"],
    )
    assert made.model == VirtualModel(
        name="My-Model:7b",
        revision=1,
        base="Org/M:latest",
        system="be brief",
        options={"temperature": 1, "stop": ["a", "b"], "mirostat": 2},
        messages=({"role": "User", "content": "hi"}, {"role": "assistant", "content": "yes"}),
        licenses=("one", "two"),
    )
    assert made.existing == (DIGEST,)
    assert len(made.new) == 4


def test_a_model_created_from_a_virtual_model_copies_all_its_parts() -> None:
    made = create(inventory(OLD), source="old", system="new", parameters={"seed": 2}, license="free")
    assert made.model == VirtualModel(
        name="v:latest",
        revision=1,
        base="friendly:8b",
        system="new",
        options={"temperature": 0.1, "seed": 2},
        messages=OLD.messages,
        licenses=("free",),
    )
    assert (len(made.existing), len(made.new)) == (3, 2)


def test_a_model_created_again_from_itself_keeps_its_spelling() -> None:
    made = create(inventory(OLD), model="OLD", source="old", system="new")
    assert made.model.name == "Old:latest"
    assert made.model.options == OLD.options


def test_tool_calls_in_messages_survive_to_the_last_null() -> None:
    call = {"function": {"name": "f", "arguments": {"x": [1, {"y": None}]}}}
    made = create(inventory(), messages=[{"role": "assistant", "tool_calls": [call]}])
    (message,) = made.model.messages
    assert message["tool_calls"] == [{"function": {**call["function"], "index": 0}}]
    (read,) = default_messages(made.model.messages)
    assert read.tool_calls is not None
    assert bytes(read.tool_calls[0].function.arguments) == b'{"x":[1,{"y":null}]}'


@pytest.mark.parametrize("field", ["parameters", "messages"])
def test_options_nested_too_deeply_are_refused(field: str) -> None:
    deep: Any = {}
    for _ in range(150):
        deep = {"x": deep}
    with pytest.raises(ClientError, match="max depth") as refused:
        create(inventory(), **{field: deep if field == "parameters" else [deep]})
    assert refused.value.status == 400


def test_a_body_far_over_the_limit_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(TooLarge, match="8 MiB"):
        decode_create(b" " * (8 << 20) + b"{}")


@pytest.mark.parametrize(
    "fields",
    [
        {"system": "x" * (1 << 20)},
        {"license": ["x" * 4096] * 257},
        {"parameters": {"stop": ["x" * 1024] * 1025}},
        {"messages": [{"role": "user", "content": "x"}] * 40_000},
    ],
)
def test_a_body_over_the_limit_is_refused_when_it_is_decoded(fields: dict[str, Any]) -> None:
    assert MAX_ADDED == MAX_ENVELOPE
    with pytest.raises(TooLarge, match="more than 1024 KiB"):
        decode_create(msgspec.json.encode({"model": "v", "from": "m", **fields}))


def test_merging_many_licences_is_fast() -> None:
    old = msgspec.structs.replace(OLD, licenses=tuple(f"{number:x}" for number in range(100_000)))
    began = time.process_time()
    made = create(inventory(old), source="old", license=[f"{number:x}z" for number in range(100_000)] + ["1", "0z"])
    assert len(made.model.licenses) == 200_000
    assert time.process_time() - began < 10, "minutes, where each is compared with each"


def test_option_numbers_of_any_size_are_stored() -> None:
    model = create(inventory(), parameters={"seed": 10**200, "temperature": -(10**30)}).model
    key = key_of(model.name)
    assert verify_model(sign_model(model, key, fleet="f", secret=b"s"), key, fleet="f", secret=b"s") == model


@pytest.mark.rule(108)
def test_the_template_of_the_base_is_accepted_and_ignored() -> None:
    assert create(inventory(), template="{{ messages }}").model.parts == {}
    with pytest.raises(ClientError, match="chat-template") as refused:
        create(inventory(), template="{{ .Prompt }}")
    assert refused.value.status == 501


@pytest.mark.rule(106, 107, 147, 149)
@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ({"model": ""}, 400, "invalid model name"),
        ({"model": "a//b"}, 400, "invalid model name"),
        ({"model": "x:local:cloud"}, 400, "use either :local or :cloud, not both"),
        ({"model": "x:cloud"}, 403, "ollama.com"),
        ({"model": "Short"}, 403, "'Short' is a name in the routing file"),
        ({"model": "Org/M"}, 403, "'Org/M' is served by vLLM workers"),
        ({"source": ""}, 400, "neither 'from' or 'files' was specified"),
        ({"source": "x y"}, 400, "invalid model name"),
        ({"source": "x:cloud"}, 403, "ollama cloud is disabled"),
        ({"remote_host": "https://ollama.com"}, 403, "ollama cloud is disabled"),
        ({"source": "nope"}, 500, "pull model manifest: file does not exist"),
        ({"parameters": {"stop": "x"}}, 400, 'option "stop" must be of type array'),
        ({"license": {"a": 1}}, 400, "license must be"),
    ],
)
def test_invalid_create_requests_are_refused(fields: dict[str, Any], status: int, text: str) -> None:
    with pytest.raises(ClientError, match=text.replace("(", r"\(")) as refused:
        create(inventory(), **fields)
    assert refused.value.status == status


def test_a_missing_base_is_its_own_error_because_a_stream_begins_before_it() -> None:
    with pytest.raises(BaseMissing):
        create(inventory(), source="nope")


@pytest.mark.rule(18)
def test_a_copy_of_a_served_model_has_it_as_its_base() -> None:
    copied = plan_copy(CopyRequest("PIRATE", "Arr"), inventory())
    assert copied == VirtualModel(name="Arr:latest", revision=1, base="pirate:latest")


@pytest.mark.rule(18)
def test_a_copy_of_a_virtual_model_is_the_same_under_another_name() -> None:
    copied = plan_copy(CopyRequest("old", "new:1"), inventory(OLD))
    assert copied == msgspec.structs.replace(OLD, name="new:1", revision=1)


@pytest.mark.rule(18)
@pytest.mark.parametrize("pair", [("v", "V:latest"), ("Org/M", "org/m"), ("old", "library/old")])
def test_a_copy_onto_itself_succeeds_without_a_change(pair: tuple[str, str]) -> None:
    assert plan_copy(CopyRequest(*pair), inventory(OLD, refusal="off")) is None


@pytest.mark.rule(146, 147, 148, 149)
@pytest.mark.parametrize(
    ("pair", "status", "text"),
    [
        (("", "v"), 400, 'source "" is invalid'),
        (("x:local:cloud", "v"), 400, 'source "x:local:cloud" is invalid'),
        (("old", "x y"), 400, 'destination "x y" is invalid'),
        (("nope", "v"), 404, 'model "nope" not found'),
        (("old", "short"), 403, "'short' is a name in the routing file: choose another name"),
        (("old", "pirate"), 403, "'pirate' is served by vLLM workers: choose another name"),
        (("old", "x:cloud"), 403, "names ending in :cloud are reserved for ollama.com's models; choose another name"),
    ],
)
def test_invalid_copies_are_refused(pair: tuple[str, str], status: int, text: str) -> None:
    with pytest.raises(ClientError) as refused:
        plan_copy(CopyRequest(*pair), inventory(OLD))
    assert (refused.value.status, refused.value.text) == (status, text)


@pytest.mark.rule(11)
def test_deleting_a_virtual_model_leaves_a_tombstone() -> None:
    assert plan_delete("OLD", inventory(OLD)) == VirtualModel(name="Old:latest", revision=1, deleted=True)


@pytest.mark.rule(11)
def test_served_and_configured_models_cannot_be_deleted() -> None:
    for name in ("friendly:8b", "short", "Org/M", "pirate"):
        with pytest.raises(Forbidden, match="cannot be deleted here"):
            plan_delete(name, inventory(OLD))


@pytest.mark.rule(11)
def test_deleting_an_unknown_name_is_a_404_even_when_writes_are_off() -> None:
    with pytest.raises(ModelNotFound, match="model 'nope' not found"):
        plan_delete("nope", inventory(refusal=UNSIGNED))


def test_a_model_whose_base_is_gone_can_be_deleted() -> None:
    orphan = msgspec.structs.replace(OLD, base="gone:latest")
    assert plan_delete("old", inventory(orphan)).deleted


def test_when_writes_are_off_every_change_is_a_403_with_the_reason() -> None:
    now = inventory(OLD, refusal=UNSIGNED)
    for change in (
        lambda: create(now),
        lambda: plan_copy(CopyRequest("old", "new"), now),
        lambda: plan_delete("old", now),
    ):
        with pytest.raises(Forbidden, match="VLLAMA_FLEET_SECRET"):
            change()


def limited(*live: VirtualModel, models: tuple[str, ...] = ("pirate",)) -> Inventory:
    return dataclasses.replace(inventory(*live), rights=rights(*models))


@pytest.mark.parametrize("source", ["Org/M", "short", "old", "never-served"])
def test_a_model_that_the_key_may_not_use_is_no_base(source: str) -> None:
    with pytest.raises(BaseMissing):
        create(limited(OLD), source=source)
    with pytest.raises(ModelNotFound) as raised:
        plan_copy(CopyRequest(source=source, destination="w"), limited(OLD))
    assert raised.value.text == f'model "{source}" not found'
    with pytest.raises(ModelNotFound):
        plan_delete(source, limited(OLD))
    with pytest.raises(BaseMissing):
        plan_pull(source, limited(OLD))


@pytest.mark.parametrize("name", ["Org/M", "short", "old"])
def test_a_model_that_the_key_may_not_use_keeps_its_name(name: str) -> None:
    """Otherwise one team could replace another's model. The refusal does not say what has the name."""
    for plan in (
        lambda: create(limited(OLD), model=name, source="pirate"),
        lambda: plan_copy(CopyRequest(source="pirate", destination=name), limited(OLD)),
    ):
        with pytest.raises(Forbidden) as raised:
            plan()
        assert raised.value.text == f"'{name}' cannot be used for a new model: choose another name"


def test_a_key_makes_and_deletes_models_from_those_that_it_may_use() -> None:
    made = create(limited(), source="pirate").model
    assert made.base == "pirate:latest"
    again = limited(made)
    assert create(again, source="v", system="s").model.base == "pirate:latest"
    assert plan_delete("v", again).deleted
