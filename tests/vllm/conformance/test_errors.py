"""Requests that vLLM refuses: status, message, and whether the refusal is inside a stream."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.vllm.server_pair import CHAT, COMPLETIONS, EMBEDDINGS, QUESTION, ServerPair
from tests.support.vllm.weather_tool import CHAT as WEATHER

BAD_SAMPLING: list[dict[str, Any]] = [
    {"max_tokens": 0},
    {"max_tokens": 100000},
    {"temperature": 2.5},
    {"temperature": -0.1},
    {"top_p": 0},
    {"top_p": 1.2},
    {"top_k": -2},
    {"top_k": 40.5},
    {"min_p": 2},
    {"repetition_penalty": 0},
    {"presence_penalty": 3},
    {"frequency_penalty": -3},
    {"seed": 1.5},
    {"seed": 2**63},
    {"stop": list("abcde")},
    {"stop": [""]},
    {"n": 0},
    {"n": 2, "temperature": 0},
    {"n": 100_000},
    {"n": "x"},
    {"user": 5},
    {"logit_bias": {"x": 1}},
    {"max_tokens": -1},
    {"min_tokens": 5, "max_tokens": 2},
    {"stream_options": {"include_usage": True}, "max_tokens": 3},
    {"stream": "maybe"},
    {"truncate_prompt_tokens": -2},
    {"truncate_prompt_tokens": 0},
    {"truncate_prompt_tokens": 100000},
    {"response_format": {"type": "json_schema"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nope"}}}},
]
BAD_CHATS: list[dict[str, Any]] = [
    {"logprobs": True, "top_logprobs": 21},
    {"top_logprobs": 2},
    {"tools": []},
    {"tool_choice": "auto"},
    {**WEATHER},
    {**WEATHER, "tool_choice": "required"},
    {**WEATHER, "tool_choice": {"type": "function", "function": {"name": "nope"}}},
    {"max_completion_tokens": 0},
    {"max_completion_tokens": 100000},
    {"parallel_tool_calls": "maybe"},
    {"tool_choice": "none", "tools": "x"},
    {"messages": []},
    {"messages": "x"},
    {"messages": [{"role": "user", "content": None}]},
    {"messages": [{"content": "x"}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]},
    {"reasoning_effort": "bogus"},
    {"chat_template": "x"},
    {"continue_final_message": True, "add_generation_prompt": True},
    {"continue_final_message": True},
]
BAD_COMPLETIONS: list[dict[str, Any]] = [
    {"suffix": "x"},
    {"prompt": [99999999]},
    {"prompt": None},
    {"prompt": ""},
    {"prompt": []},
    {"prompt": ["x", ""]},
    {"prompt": [[], [1]]},
    {"prompt": ["x", 5]},
    {"prompt": ["x"] * 2000},
    {"n": None},
    {"logprobs": 21},
]


def field_values(fields: Any) -> str:
    """The id of a test case."""
    return str(fields).replace(" ", "")[:60]


def is_refused(answer: httpx.Response) -> bool:
    """Status 400, or an error 400 in a stream: vLLM has sent its 200 before the engine checks the request."""
    return answer.status_code == 400 or '"code": 400' in answer.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", [*BAD_SAMPLING, *BAD_CHATS], ids=field_values)
def test_an_invalid_chat_gets_the_real_error(chat_pair: ServerPair, fields: dict[str, Any], stream: bool) -> None:
    body = {"model": chat_pair.model, **QUESTION, **({"stream": True} if stream else {}), **fields}
    real, _ = chat_pair.compare(CHAT, body)
    assert is_refused(real) or "stream_options" in fields  # which are valid in a stream


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", [*BAD_SAMPLING, *BAD_COMPLETIONS], ids=field_values)
def test_an_invalid_completion_gets_the_real_error(chat_pair: ServerPair, fields: dict[str, Any], stream: bool) -> None:
    body = {"model": chat_pair.model, "prompt": "hi", **({"stream": True} if stream else {}), **fields}
    real, _ = chat_pair.compare(COMPLETIONS, body)
    assert is_refused(real) or "stream_options" in fields


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/tokenize", "/detokenize"])
def test_an_unknown_model_gets_the_real_404(chat_pair: ServerPair, path: str) -> None:
    real, _ = chat_pair.compare(path, {"model": "nope", **QUESTION, "prompt": "x", "tokens": [1]})
    assert real.status_code == 404


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_beyond_the_context_gets_the_real_error(chat_pair: ServerPair, stream: bool) -> None:
    """vLLM has three messages for it: too many tokens of text, too many characters, too many ids."""
    for words in (2500, 200_000):
        chat_pair.compare_fields(CHAT, messages=[{"role": "user", "content": "hi " * words}], stream=stream)
    real, _ = chat_pair.compare_fields(COMPLETIONS, prompt=[5] * 3000, stream=stream)
    assert real.status_code == 400


@pytest.mark.parametrize("body", [b"{bad json", b"[]", b"", b'"x"'])
def test_a_body_that_is_not_a_json_object_gets_the_real_error(chat_pair: ServerPair, body: bytes) -> None:
    chat_pair.compare(CHAT, body)


def test_content_types_are_checked_as_by_the_real_server(chat_pair: ServerPair) -> None:
    chat_pair.compare(CHAT, b"{}", headers={"content-type": "text/plain"})
    body = {"model": chat_pair.model, **QUESTION, "max_tokens": 1}
    chat_pair.compare(CHAT, body, headers={"content-type": "application/json; charset=utf-8"})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/nope"),
        ("GET", CHAT),
        ("PUT", "/v1/models"),
        ("HEAD", "/health"),
        ("POST", EMBEDDINGS),
        ("POST", "/sleep"),
    ],
)
def test_an_unknown_route_or_method_gets_the_real_error(chat_pair: ServerPair, method: str, path: str) -> None:
    chat_pair.compare(path, None if method in ("GET", "HEAD") else {}, method=method)
