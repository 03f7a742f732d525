from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.protocol import CLOCK, MODEL, TIMING
from vllama_pool.config.routing.defaults import NO_DEFAULTS
from vllama_pool.router.errors import BadRequest, Refused
from vllama_pool.router.protocol.openai.pooling import embeddings
from vllama_pool.router.protocol.openai.pooling import request as pooling
from vllama_pool.router.protocol.vllm.errors import classify
from vllama_pool.workers.registry.record import ModelInfo

EMBEDDER = ModelInfo(name="org/minilm", capabilities=("embedding",))
TOO_LONG = (
    "This model's maximum context length is 512 tokens. However, you requested 700 tokens. Please reduce the input."
)


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "minilm:latest", "input": "why", **fields}).encode()


def sent(**fields: Any) -> dict[str, Any]:
    step = embeddings.prepare(embeddings.decode(body(**fields)), EMBEDDER, NO_DEFAULTS)
    assert (step.path, step.whole) == ("/v1/embeddings", True)
    found: dict[str, Any] = json.loads(step.body)
    return found


def refused(**fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        embeddings.decode(body(**fields))
    assert caught.value.status == 400
    return caught.value


@pytest.mark.rule(29, 116)
@pytest.mark.parametrize("value", ["why", "", ["a", ""], [1, 2], [[1, 2], [3]], [0, 2**32 - 1]], ids=repr)
def test_texts_and_tokens_are_forwarded_with_the_served_name(value: Any) -> None:
    assert sent(input=value) == {"model": "org/minilm", "input": value}


@pytest.mark.rule(116)
def test_fields_of_the_api_and_of_vllm_are_forwarded() -> None:
    fields = {
        "encoding_format": "base64",
        "dimensions": 64,
        "user": "anna",
        "truncate_prompt_tokens": -1,
        "truncation_side": "left",
        "padding": "do_not_pad",
        "add_special_tokens": False,
        "use_activation": False,
        "embed_dtype": "float16",
        "endianness": "little",
    }
    assert sent(**fields) == {"model": "org/minilm", "input": "why", **fields}


def test_unknown_fields_are_dropped() -> None:
    assert sent(request_id="x", foo={"a": 1}, task="embed") == {"model": "org/minilm", "input": "why"}


@pytest.mark.rule(116)
@pytest.mark.parametrize(("name", "forwarded"), [("BASE64", "base64"), ("Float", "float"), ("", None), (None, None)])
def test_the_case_of_the_format_is_ignored(name: str | None, forwarded: str | None) -> None:
    assert sent(encoding_format=name).get("encoding_format") == forwarded


@pytest.mark.rule(116)
@pytest.mark.parametrize("name", ["int8", "bytes", "hex"])
def test_other_formats_are_refused_with_ollamas_text(name: str) -> None:
    error = refused(encoding_format=name)
    assert error.text == f"Invalid value for 'encoding_format' = {name}. Supported values: ['float', 'base64']."
    assert error.param == "encoding_format"


@pytest.mark.rule(116)
@pytest.mark.parametrize("value", [None, [], [[]], [[1], []]], ids=repr)
def test_no_input_is_refused_with_ollamas_text(value: Any) -> None:
    error = refused(input=value)
    assert (error.text, error.param) == ("invalid input", "input")


@pytest.mark.parametrize(
    "value", [5, {"a": 1}, [{"text": "a"}], [None], ["a", 1], [1, [2]], ["a", ["b"]], [[1.5]], [True], [[-1]], [2**32]]
)
def test_input_of_another_type_is_refused(value: Any) -> None:
    error = refused(input=value)
    assert error.text.startswith(("Invalid type for 'input", "Invalid value for 'input"))
    assert (error.param or "").startswith("input")


def test_more_inputs_than_the_api_allows_are_refused() -> None:
    assert len(sent(input=["a"] * 2048)["input"]) == 2048
    assert len(sent(input=[7] * 3000)["input"]) == 3000  # the tokens of one text
    for value in (["a"] * 2049, [[1]] * 2049):
        error = refused(input=value)
        assert (error.param, error.code) == ("input", "array_above_max_length")
        assert error.text.endswith("maximum length 2048, but got an array with length 2049 instead.")


@pytest.mark.rule(146)
@pytest.mark.parametrize("name", ["", "  "])
def test_a_missing_model_is_refused(name: str) -> None:
    error = refused(model=name)
    assert (error.text, error.param) == ("model is required", "model")


@pytest.mark.rule(116)
def test_format_and_input_are_reported_before_the_model() -> None:
    assert refused(model="", input=[]).param == "input"
    assert refused(model="", input=[], encoding_format="hex").param == "encoding_format"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": -5}, "dimensions"),
        ({"dimensions": 10**30}, "dimensions"),
        ({"truncate_prompt_tokens": 2**31}, "truncate_prompt_tokens"),
        ({"dimensions": "64"}, "dimensions"),
        ({"dimensions": 1.5}, "dimensions"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"truncation_side": "middle"}, "truncation_side"),
        ({"padding": "longest"}, "padding"),
        ({"embed_dtype": "int8"}, "embed_dtype"),
        ({"encoding_format": 5}, "encoding_format"),
        ({"model": 5}, "model"),
        ({"user": 5}, "user"),
    ],
)
def test_values_out_of_range_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields).param == param


@pytest.mark.parametrize("name", embeddings.REFUSED)
def test_fields_that_reach_into_the_server_are_refused(name: str) -> None:
    error = refused(**{name: 1})
    assert (error.param, error.code) == (name, "unsupported_parameter")


@pytest.mark.rule(150)
def test_bodies_that_are_not_objects_are_refused() -> None:
    for content, text in ((b"", "EOF"), (b"{", "not valid JSON"), (b"[]", "must be a JSON object")):
        with pytest.raises(BadRequest, match=text):
            embeddings.decode(content)


def test_a_chat_model_is_refused_before_a_worker_is_asked() -> None:
    request = embeddings.decode(body())
    embeddings.check(request, EMBEDDER)
    with pytest.raises(BadRequest, match='"minilm:latest" does not support embeddings: use an embedding model'):
        embeddings.check(request, MODEL)


@pytest.mark.rule(145)
def test_a_text_that_is_too_long_has_the_code_and_vllms_words() -> None:
    failure = classify(400, json.dumps({"error": {"message": TOO_LONG, "code": 400}}).encode())
    with pytest.raises(Refused) as caught:
        embeddings.adapt(embeddings.decode(body()), EMBEDDER, NO_DEFAULTS, failure)
    assert (caught.value.status, caught.value.text) == (400, TOO_LONG)
    assert (caught.value.param, caught.value.code) == ("input", "context_length_exceeded")


def test_a_refusal_in_vllms_words_stays() -> None:
    failure = Refused("Model 'm' does not support Matryoshka embeddings; dimensions must be unset", status=400)
    embeddings.adapt(embeddings.decode(body()), EMBEDDER, NO_DEFAULTS, failure)


@pytest.mark.rule(45, 116)
def test_the_answer_names_the_model_as_the_client_did_and_counts_tokens() -> None:
    answer = (
        b'{"id":"embd-1","object":"list","created":1,"model":"org/minilm","data":[{"index":0,"object":"embedding",'
        b'"embedding":"AACAPw=="}],"usage":{"prompt_tokens":3,"total_tokens":3,"completion_tokens":0}}'
    )
    translator = pooling.translator(embeddings.decode(body()), TIMING, CLOCK)
    assert translator.feed(answer) == b""
    assert translator.finish() == answer.replace(b"org/minilm", b"minilm:latest")
    assert translator.done
    assert (translator.usage.prompt_tokens, translator.usage.completion_tokens) == (3, 0)
