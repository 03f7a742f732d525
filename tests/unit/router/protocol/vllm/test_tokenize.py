"""Preflight requests to a worker's tokenizer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vllama_pool.router.errors import Unable
from vllama_pool.router.protocol.operation import DirectResponse, NextStep
from vllama_pool.router.protocol.vllm import api, tokenize


def chat(**fields: Any) -> api.VllmChatRequest:
    messages = [api.VllmMessage("user", "hi")]
    return api.VllmChatRequest(model="m", messages=messages, stream=True, stream_options=api.INCLUDE_USAGE, **fields)


def respond(decoded: Any) -> NextStep:
    return DirectResponse(repr(decoded).encode())


def test_a_chat_is_tokenized_with_tools_and_template_arguments() -> None:
    tool = api.VllmTool(api.VllmToolFunction("f"))
    step = tokenize.tokenize_chat(chat(tools=[tool], chat_template_kwargs={"thinking": True}), respond, with_texts=True)
    assert step.path == "/tokenize"
    assert json.loads(step.body) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"function": {"name": "f"}, "type": "function"}],
        "chat_template_kwargs": {"thinking": True},
        "return_token_strs": True,
    }


@pytest.mark.parametrize(
    ("kwargs", "expected"), [({"thinking": True}, {"thinking": True, "reasoning_effort": "low"}), (None, None)]
)
def test_reasoning_effort_is_a_template_argument_only_beside_others(kwargs: Any, expected: Any) -> None:
    step = tokenize.count_chat(chat(chat_template_kwargs=kwargs, reasoning_effort="low"), respond)
    assert json.loads(step.body).get("chat_template_kwargs") == expected


def test_the_next_step_is_made_from_the_decoded_response() -> None:
    step = tokenize.count_text("m", "hi", lambda decoded: respond((decoded.count, decoded.max_model_len)))
    assert step.then(b'{"count":3,"max_model_len":8,"tokens":[1,2,3]}') == DirectResponse(b"(3, 8)")


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"count":"x","max_model_len":8}', b"\xff"])
def test_an_invalid_tokenizer_response_is_a_501(body: bytes) -> None:
    step = tokenize.count_text("m", "hi", respond)
    with pytest.raises(Unable, match="the worker's response to /tokenize is invalid") as refused:
        step.then(body)
    assert refused.value.status == 501
