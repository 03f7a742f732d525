"""Rendered prompts, decoded from tokens."""

from __future__ import annotations

import json

import pytest

from vllama_pool.router.protocol.ollama import render
from vllama_pool.router.protocol.operation import DirectResponse, PreflightRequest
from vllama_pool.router.protocol.vllm import api

CHAT = api.VllmChatRequest(
    model="m", messages=[api.VllmMessage("user", "hi")], stream=True, stream_options=api.INCLUDE_USAGE
)


def respond(text: str) -> DirectResponse:
    return DirectResponse(text.encode())


@pytest.mark.rule(66)
def test_a_chat_is_tokenized_and_decoded_after_the_context() -> None:
    tokens = render.render_chat(CHAT, respond, after=[7])
    assert isinstance(tokens, PreflightRequest)
    text = tokens.then(b'{"tokens":[1,2],"max_model_len":8}')
    assert isinstance(text, PreflightRequest)
    assert (text.path, json.loads(text.body)) == ("/detokenize", {"model": "m", "tokens": [7, 1, 2]})
    assert text.then(b'{"prompt":"<user>hi"}') == DirectResponse(b"<user>hi")


@pytest.mark.rule(66)
def test_a_plain_prompt_needs_no_worker_unless_it_follows_a_context() -> None:
    assert render.render_text("m", "hi", respond) == DirectResponse(b"hi")
    step = render.render_text("m", "hi", respond, after=[7])
    assert isinstance(step, PreflightRequest)
    assert step.then(b'{"prompt":"before "}') == DirectResponse(b"before hi")
