"""Bad requests get vLLM's own words. What is expected here was taken from vLLM 0.32's answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vllama_pool.workers.simulated.errors import ApiError
from vllama_pool.workers.simulated.requests import parse_chat, parse_completion, parse_embedding, parse_tokenize

HI = {"messages": [{"role": "user", "content": "hi"}]}
JSON = "application/json"


def refused(body: Any, parse: Any = parse_chat, content_type: str = JSON) -> ApiError:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(ApiError) as caught:
        parse(data, content_type)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)", "max_tokens"),
        ({"top_p": 0}, "top_p must be in (0, 1], got 0.0. (parameter=top_p, value=0.0)", "top_p"),
        ({"top_k": -2}, "top_k must be 0 (disable), or at least 1, got -2.", None),
        ({"min_p": 2}, "min_p must be in [0, 1], got 2.0.", None),
        ({"stop": [""]}, "stop cannot contain an empty string.", None),
        ({"n": 0}, "n must be at least 1, got 0.", None),
        (
            {"temperature": 2.5},
            "temperature must be in [0, 2], got 2.5. (parameter=temperature, value=2.5)",
            "temperature",
        ),
        (
            {"stream_options": {"include_usage": True}},
            "Stream options can only be defined when `stream=True`. (parameter=stream_options)",
            "stream_options",
        ),
        (
            {"tool_choice": "auto"},
            "When using `tool_choice`, `tools` must be set. (parameter=tool_choice)",
            "tool_choice",
        ),
    ],
)
def test_values_out_of_range(fields: dict[str, Any], message: str, param: str | None) -> None:
    error = refused({**HI, **fields})
    assert (error.message, error.kind, error.param) == (message, "BadRequestError", param)


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        (
            {**HI, "seed": 1.5},
            "1 validation error:\n  {'type': 'int_from_float', 'loc': 'body.seed', 'msg': 'Input should be a valid "
            "integer, got a number with a fractional part', 'input': '1.5'}",
            "body.seed",
        ),
        (
            {**HI, "stop": ["a", "b", "c", "d", "e"]},
            "2 validation errors:\n  {'type': 'string_type', 'loc': 'body.stop', 'msg': 'Input should be a valid "
            "string', 'input': '<list of 5 items>'}\n  {'type': 'too_long', 'loc': 'body.stop', 'msg': 'List should "
            "have at most 4 items after validation, not 5', 'input': '<list of 5 items>', 'ctx': {'field_type': "
            "'List', 'max_length': 4, 'actual_length': 5}}",
            "body.stop",
        ),
        (
            b"{bad json",
            "1 validation error:\n  {'type': 'json_invalid', 'loc': 'body.1', 'msg': 'JSON decode error', 'input': "
            "'<dict of 0 items>', 'ctx': {'error': 'Expecting property name enclosed in double quotes'}}",
            "body.1",
        ),
        (
            {"model": "m"},
            "1 validation error:\n  {'type': 'missing', 'loc': 'body.messages', 'msg': 'Field required', 'input': "
            "'<dict of 1 items>'}",
            "body.messages",
        ),
        (
            [],
            "1 validation error:\n  {'type': 'model_attributes_type', 'loc': 'body', 'msg': 'Input should be a valid "
            "dictionary or object to extract fields from', 'input': '<list of 0 items>'}",
            "body",
        ),
    ],
)
def test_bodies_of_the_wrong_shape(body: Any, message: str, param: str) -> None:
    error = refused(body)
    assert (error.message, error.kind, error.param) == (message, "Bad Request", param)


def test_a_body_that_is_no_json_by_its_header() -> None:
    error = refused(HI, content_type="text/plain")
    assert error.message == "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": None},
        {"content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "x", "arguments": {}}}]},
    ],
)
def test_messages_that_vllm_refuses(message: dict[str, Any]) -> None:
    error = refused({"messages": [message]})
    assert error.kind == "Bad Request"
    assert "validation error" in error.message


def test_more_stop_strings_where_the_server_allows_them() -> None:
    body = json.dumps({**HI, "stop": list("abcdef")}).encode()
    assert parse_chat(body, JSON, max_stop=6).stop == list("abcdef")


def test_unknown_fields_are_ignored() -> None:
    assert parse_chat(json.dumps({**HI, "num_ctx": 5, "options": {}}).encode(), "application/json; charset=utf-8")


def test_invalid_completions_embeddings_and_tokens_are_refused() -> None:
    empty = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"
    assert refused({}, parse_completion).message == empty
    assert refused({"prompt": []}, parse_completion).message == "You must pass at least one prompt"
    assert refused({"prompt": "x", "suffix": "y"}, parse_completion).param == "suffix"
    assert refused({"input": []}, parse_embedding).message == "You must pass at least one prompt"
    assert refused({"input": None}, parse_embedding).param == "body.input"
    assert "2 validation errors" in refused({"model": "m"}, parse_tokenize).message
