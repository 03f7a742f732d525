from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.protocol import MODEL
from vllama_pool.router.errors import ClientError
from vllama_pool.router.protocol.ollama.options import (
    DROPPED,
    KNOWN,
    check,
    default_max_tokens,
    merge,
    override,
    sampling,
)
from vllama_pool.router.protocol.vllm import api
from vllama_pool.workers.registry.record import ModelInfo


def upstream_body(
    request: dict[str, Any] | None = None, route: dict[str, Any] | None = None, info: ModelInfo = MODEL
) -> Any:
    values = sampling(merge(request, route or {}, info), info)
    merged = api.VllmSampling(**values)
    overridden = api.VllmSampling(**sampling(merge(None, route or {}, info), info))
    override(overridden, request or {}, route or {}, info)
    assert overridden == merged
    return json.loads(msgspec.json.encode(merged))


@pytest.mark.rule(127, 129, 144)
def test_ollamas_defaults_are_sent_unless_overridden() -> None:
    assert upstream_body() == {"temperature": 0.8, "top_k": 40, "top_p": 0.9}


@pytest.mark.rule(144)
def test_a_default_of_generation_config_is_left_to_vllm() -> None:
    info = msgspec.structs.replace(MODEL, defaults={"temperature": 0.2, "top_p": 0.5})
    assert upstream_body(info=info) == {"top_k": 40}
    assert upstream_body({"temperature": 1}, info=info) == {"top_k": 40, "temperature": 1.0}


def test_request_options_override_the_routes_and_null_is_absent() -> None:
    result = upstream_body({"temperature": None, "top_k": 7}, {"temperature": 0.1, "top_k": 5, "stop": "END"})
    assert result == {"temperature": 0.1, "top_k": 7, "top_p": 0.9, "stop": ["END"]}


WRONG: list[tuple[str, Any, str]] = [
    ("temperature", "hot", "of type float32"),
    ("top_p", True, "of type float32"),
    ("num_predict", "5", "of type integer"),
    ("num_ctx", [1], "of type integer"),
    ("draft_num_predict", {}, "of type integer"),
    ("use_mmap", 1, "of type boolean"),
    ("stop", "END", "of type array"),
    ("stop", ["a", 1], "of an array of strings"),
]


@pytest.mark.rule(153)
@pytest.mark.parametrize(("key", "value", "kind"), WRONG)
def test_an_option_of_the_wrong_type_is_a_500(key: str, value: Any, kind: str) -> None:
    with pytest.raises(ClientError) as caught:
        check({key: value})
    assert (caught.value.status, caught.value.text) == (500, f'option "{key}" must be {kind}')


@pytest.mark.rule(143)
def test_unknown_and_removed_options_are_not_type_checked() -> None:
    removed = ["mirostat", "mirostat_tau", "mirostat_eta", "tfs_z", "penalize_newline", "numa", "low_vram"]
    removed += ["f16_kv", "logits_all", "vocab_only", "use_mlock", "num_gqa"]
    values: tuple[Any, ...] = ("x", [], {}, 1, True)
    for value in values:
        check(dict.fromkeys(removed, value))
        assert upstream_body(dict.fromkeys(removed, value)) == upstream_body()
    check({"Temperature": "case matters here", "stop": None})


@pytest.mark.rule(131, 138, 139, 140, 141, 142)
@pytest.mark.parametrize("key", sorted(DROPPED))
def test_options_without_a_counterpart_in_vllm_are_dropped(key: str) -> None:
    assert upstream_body({key: 1}) == upstream_body()


@pytest.mark.rule(131, 138, 139, 140, 141, 142)
def test_dropped_options_are_type_checked() -> None:
    integers = {"num_ctx", "num_keep", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict"}
    assert {*integers, "typical_p", "use_mmap"} == DROPPED
    for key in DROPPED:
        with pytest.raises(ClientError, match=f'^option "{key}" must be of type '):
            check({key: "x"})


LIMITED = msgspec.structs.replace(
    MODEL,
    defaults={
        "num_predict": 5,
        "temperature": 0.1,
        "top_k": 5,
        "top_p": 0.5,
        "min_p": 0.5,
        "repeat_penalty": 1.5,
        "presence_penalty": 1.5,
        "frequency_penalty": 1.5,
    },
)
"""A model whose generation_config sets every option that vLLM reads there."""


@pytest.mark.rule(126)
@pytest.mark.parametrize("info", [MODEL, LIMITED])
@pytest.mark.parametrize(
    ("given", "max_tokens"),
    [(-1, 2048), (-2, 2048), (0, 2048), (-7, 2048), (-1.9, 2048), (0.5, 2048), (5, 5), (5.9, 5), (10**9, 2048)],
)
def test_num_predict_becomes_max_tokens(given: float, max_tokens: int, info: ModelInfo) -> None:
    for layers in (({"num_predict": given}, {"num_predict": 3}), ({"num_predict": None}, {"num_predict": given})):
        assert upstream_body(*layers, info=info)["max_tokens"] == max_tokens


@pytest.mark.rule(126)
def test_no_limit_without_a_known_context_is_more_than_any_context() -> None:
    """vLLM's refusal names its context."""
    assert upstream_body({"num_predict": -1}, info=ModelInfo(name="unknown"))["max_tokens"] == 2**31 - 1


@pytest.mark.rule(144)
def test_options_of_generation_config_that_nobody_sets_are_left_to_vllm() -> None:
    assert upstream_body(info=LIMITED) == {}


@pytest.mark.rule(126, 127, 128, 129, 130, 132, 133, 134, 135)
@pytest.mark.parametrize(
    ("option", "sent"),
    [
        ({"num_predict": -1}, {"max_tokens": 2048}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"top_k": 0}, {"top_k": -1}),
        ({"top_k": -1}, {"top_k": -1}),
        ({"top_p": 1}, {"top_p": 1.0}),
        ({"min_p": 0}, {"min_p": 0.0}),
        ({"repeat_penalty": 1}, {"repetition_penalty": 1.0}),
        ({"repeat_penalty": 0}, {"repetition_penalty": 1.0}),
        (
            {"repeat_last_n": 0},
            {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0},
        ),
        ({"presence_penalty": 0}, {"presence_penalty": 0.0}),
        ({"frequency_penalty": 0}, {"frequency_penalty": 0.0}),
    ],
)
def test_an_option_that_is_off_is_sent_and_not_left_to_generation_config(
    option: dict[str, Any], sent: dict[str, Any]
) -> None:
    assert upstream_body(option, info=LIMITED) == sent
    assert upstream_body(None, option, info=LIMITED) == sent


@pytest.mark.rule(126)
def test_completions_always_have_max_tokens() -> None:
    assert default_max_tokens(MODEL) == 2048
    assert default_max_tokens(ModelInfo(name="unknown")) == 1024
    assert default_max_tokens(msgspec.structs.replace(MODEL, defaults={"num_predict": 100})) == 100


@pytest.mark.rule(128, 130, 132, 133, 134, 135, 136, 137)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"top_k": 0}, {"top_k": -1}),
        ({"top_k": -5}, {"top_k": -1}),
        ({"top_p": 0}, {"top_p": 1e-6}),
        ({"temperature": 9}, {"temperature": 2.0}),
        ({"repeat_penalty": 0}, {"repetition_penalty": 1.0}),
        ({"repeat_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"repeat_penalty": 1.1, "repeat_last_n": 0}, {"repetition_penalty": 1.0}),
        ({"presence_penalty": 1, "repeat_last_n": 0}, {"presence_penalty": 0.0, "frequency_penalty": 0.0}),
        ({"repeat_penalty": 1.1, "repeat_last_n": -1}, {"repetition_penalty": 1.1}),
        ({"repeat_last_n": 64}, {"repetition_penalty": None}),
        ({"presence_penalty": -7}, {"presence_penalty": -2.0}),
        ({"frequency_penalty": 7}, {"frequency_penalty": 2.0}),
        ({"seed": -1}, {"seed": None}),
        ({"seed": 0}, {"seed": 0}),
        ({"seed": 1e30}, {"seed": 2**63 - 1}),
        ({"stop": ["", "a"]}, {"stop": ["a"]}),
        ({"stop": [""]}, {"stop": None}),
        ({"stop": list("abcdef")}, {"stop": list("abcdef")}),
        ({"min_p": 2}, {"min_p": 1.0}),
    ],
)
def test_values_are_clamped_to_vllms_ranges(options: dict[str, Any], expected: dict[str, Any]) -> None:
    result = upstream_body(options)
    assert {key: result.get(key) for key in expected} == expected


NUMBERS = st.integers(-(10**25), 10**25) | st.floats(allow_nan=False, allow_infinity=False)
LAYER = st.dictionaries(
    st.sampled_from(sorted(KNOWN - {"stop", "use_mmap"})), NUMBERS | st.none(), max_size=12
) | st.fixed_dictionaries({}, optional={"stop": st.lists(st.text(max_size=5), max_size=9), "num_predict": NUMBERS})


@pytest.mark.rule(126, 136)
@pytest.mark.trap(13)
@given(LAYER, LAYER, st.sampled_from([0, 1, 2048]))
def test_any_options_give_values_that_vllm_accepts(
    request: dict[str, Any], route: dict[str, Any], context: int
) -> None:
    check(request)
    result = upstream_body(request, route, msgspec.structs.replace(MODEL, context_length=context))
    assert result.get("max_tokens", 1) >= 1
    assert not context or result.get("max_tokens", 1) <= context
    assert 0 <= result.get("temperature", 0) <= 2
    assert 0 < result.get("top_p", 1) <= 1
    assert 0 <= result.get("min_p", 0) <= 1
    assert result.get("top_k", 0) == -1 or 0 < result["top_k"] < 2**31
    assert result.get("repetition_penalty", 1) > 0
    assert -2 <= result.get("presence_penalty", 0) <= 2
    assert -2 <= result.get("frequency_penalty", 0) <= 2
    assert 0 <= result.get("seed", 0) < 2**63
    assert isinstance(result.get("top_k"), int)
    assert all(result.get("stop", ["x"]))
    assert {type(value) for value in result.values()} <= {int, float, list}
    assert result.get("max_tokens", 1) >= 1


NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
SOME_NUMBERS = {key: st.none() | NUMBERS for key in sorted(KNOWN - {"stop", "use_mmap"})}
STOPS = st.none() | st.lists(st.text(max_size=2), max_size=2)
SOME_OPTIONS = st.fixed_dictionaries({}, optional=SOME_NUMBERS | {"stop": STOPS})


@given(SOME_OPTIONS, SOME_OPTIONS)
def test_overriding_the_routes_options_equals_merging_before_translation(
    request: dict[str, Any], route: dict[str, Any]
) -> None:
    """`upstream_body` compares both ways."""
    upstream_body(request, route)
