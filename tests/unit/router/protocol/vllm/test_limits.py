"""Requests adapted to the limits that a worker's refusals reveal."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.support.protocol import CLOCK, MODEL, outgoing
from vllama_pool.config.routing.defaults import NO_DEFAULTS
from vllama_pool.router.errors import AttemptFailed, Refused
from vllama_pool.router.protocol.ollama import chat, generate
from vllama_pool.router.protocol.ollama.requests import decode_chat, decode_generate
from vllama_pool.router.protocol.operation import NextStep
from vllama_pool.router.protocol.vllm.errors import classify
from vllama_pool.workers.registry.record import ModelInfo

STATIC = ModelInfo(name="static")
"""A model without metadata."""
HI = [{"role": "user", "content": "hi"}]


def vllm_says(message: str) -> AttemptFailed:
    return classify(400, json.dumps({"error": {"message": message, "type": "Bad Request", "code": 400}}).encode())


TOO_MANY = vllm_says(
    "2 validation errors:\n  {'type': 'string_type', 'loc': 'body.stop', 'msg': 'Input should be a valid string', "
    "'input': '<list of 6 items>'}\n  {'type': 'too_long', 'loc': 'body.stop', 'msg': 'List should have at most 4 "
    "items after validation, not 6', 'input': '<list of 6 items>', 'ctx': {'max_length': 4}}"
)
TOO_MUCH = vllm_says("max_tokens=5000 cannot be greater than max_model_len=1024. Please request fewer output tokens.")


def adapt(failure: AttemptFailed, path: str, info: ModelInfo = STATIC, **options: Any) -> NextStep | None:
    body = json.dumps({"model": "m", "messages": HI, "prompt": "hi", "raw": path == "raw", "options": options})
    if path == "chat":
        return chat.adapt(decode_chat(body.encode()), info, NO_DEFAULTS, CLOCK, failure)
    return generate.adapt(decode_generate(body.encode()), info, NO_DEFAULTS, CLOCK, failure)


@pytest.mark.rule(137)
@pytest.mark.parametrize("path", ["chat", "generate", "raw"])
def test_too_many_stop_strings_are_cut_to_the_first(path: str) -> None:
    sent = json.loads(outgoing(adapt(TOO_MANY, path, stop=list("abcdef"))).body)  # type: ignore[arg-type]
    assert sent["stop"] == list("abcd")


@pytest.mark.rule(126)
@pytest.mark.parametrize("path", ["chat", "generate", "raw"])
def test_max_tokens_is_clamped_to_the_context(path: str) -> None:
    sent = json.loads(outgoing(adapt(TOO_MUCH, path, num_predict=5000)).body)  # type: ignore[arg-type]
    assert sent["max_tokens"] == 1024


@pytest.mark.parametrize("path", ["chat", "generate", "raw"])
@pytest.mark.parametrize("failure", [Refused("no", status=400), TOO_MANY, TOO_MUCH])
def test_a_request_within_the_limits_is_not_changed(failure: AttemptFailed, path: str) -> None:
    small = msgspec.structs.replace(MODEL, context_length=512)
    assert adapt(failure, path, small) is None
