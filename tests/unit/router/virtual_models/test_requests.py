"""Every request gives a plan whose model can be stored and read again, or an error with a text."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.balance import Clock, found, pool_of
from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.router.errors import BadRequest, ClientError
from vllama_pool.router.protocol.ollama import copying, create, pull
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.virtual_models.change_plans import Inventory, plan_copy, plan_create, plan_delete
from vllama_pool.workers.registry.virtual_model import key_of, sign_model, verify_model

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "System", "tool", ""]) | JSON,
        "content": st.text(max_size=5) | JSON,
        "images": st.lists(st.sampled_from(["aGk=", "x"]), max_size=2) | JSON,
        "tool_calls": st.lists(
            st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": st.text(), "arguments": JSON})}),
            max_size=2,
        )
        | JSON,
        "thinking": JSON,
    },
)
CREATE = st.fixed_dictionaries(
    {"model": st.sampled_from(["v", "V:1", "m", "x:cloud", "a b"]) | JSON, "from": st.sampled_from(["m", "no"])},
    optional={
        "system": st.text(max_size=5) | JSON,
        "parameters": st.dictionaries(st.sampled_from(["seed", "stop", "temperature", "num_ctx", "other"]), JSON)
        | JSON,
        "messages": st.lists(MESSAGE, max_size=3) | JSON,
        "license": st.lists(st.text(max_size=3), max_size=2) | JSON,
        "files": JSON,
        "template": JSON,
        "STREAM": JSON,
        "surplus": JSON,
    },
)


def inventory() -> Inventory:
    return Inventory(ModelRoutes(RoutingTable(), random.Random(1)), pool_of(Clock(), found("a")), {})


NOW = inventory()
T = TypeVar("T")


def outcome(step: Callable[[], T]) -> tuple[T | None, ClientError | None]:
    try:
        return step(), None
    except ClientError as error:
        return None, error


@settings(max_examples=300, deadline=None)
@given(CREATE)
def test_every_created_model_survives_encoding_and_decoding(body: dict[str, Any]) -> None:
    made, refused = outcome(lambda: plan_create(create.decode_create(json.dumps(body).encode()), NOW))
    if refused is not None:
        assert refused.text
        assert refused.status in (400, 403, 500, 501)
        return
    assert made is not None
    key = key_of(made.model.name)
    envelope = sign_model(made.model, key, fleet="f", secret=b"s")
    assert verify_model(envelope, key, fleet="f", secret=b"s") == made.model


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["model", "name", "source", "destination", "stream"]), JSON) | JSON)
def test_no_request_body_causes_an_unexpected_error(body: Any) -> None:
    data = json.dumps(body).encode()
    steps: tuple[Callable[[], object], ...] = (
        lambda: plan_create(create.decode_create(data), NOW),
        lambda: plan_copy(copying.decode_copy(data), NOW),
        lambda: plan_delete(copying.decode_delete(data).requested, NOW),
        lambda: pull.check_name(pull.decode_pull(data).requested),
    )
    for step in steps:
        _, refused = outcome(step)
        assert refused is None or refused.text


@pytest.mark.rule(150, 151)
@pytest.mark.parametrize("decode", [create.decode_create, copying.decode_copy, copying.decode_delete, pull.decode_pull])
def test_an_invalid_body_is_refused_with_ollamas_text(decode: Any) -> None:
    for body, text in ((b"", "missing request body"), (b"{", "unexpected EOF"), (b"x", "invalid character 'x'")):
        with pytest.raises(BadRequest) as refused:
            decode(body)
        assert refused.value.text.startswith(text)
