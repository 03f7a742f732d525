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
from vllama_pool.router.protocol.ollama.model_plan import ModelPlan
from vllama_pool.router.protocol.ollama.requests import decode_chat, decode_generate
from vllama_pool.router.protocol.operation import NextStep, PreflightRequest
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
        return chat.adapt(decode_chat(body.encode()), ModelPlan(info, NO_DEFAULTS), CLOCK, failure)
    return generate.adapt(decode_generate(body.encode()), ModelPlan(info, NO_DEFAULTS), CLOCK, failure)


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


OLDER = {
    "0.10": "This model's maximum context length is 2048 tokens. However, you requested 2060 tokens (12 in the "
    "messages, 2048 in the completion). Please reduce the length of the messages or completion.",
    "0.11": "'max_tokens' or 'max_completion_tokens' is too large: 2048. This model's maximum context length is 2048 "
    "tokens and your request has 12 input tokens (2048 > 2048 - 12).",
    "0.16": "You passed 12 input tokens and requested 2048 output tokens. However, the model's context length is only "
    "2048 tokens, resulting in a maximum input length of 0 tokens. Please reduce the length of the input prompt.",
}


@pytest.mark.rule(126)
@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize("path", ["chat", "generate"])
@pytest.mark.parametrize("text", OLDER.values(), ids=OLDER)
def test_no_limit_is_fitted_to_the_prompt_for_older_releases(text: str, path: str, truncate: bool) -> None:
    body = {"model": "m", "messages": HI, "prompt": "hi", "truncate": truncate, "options": {"num_predict": -1}}
    failure = vllm_says(text)
    if path == "chat":
        step = chat.adapt(decode_chat(json.dumps(body).encode()), ModelPlan(MODEL, NO_DEFAULTS), CLOCK, failure)
    else:
        step = generate.adapt(decode_generate(json.dumps(body).encode()), ModelPlan(MODEL, NO_DEFAULTS), CLOCK, failure)
    assert isinstance(step, PreflightRequest)
    sent = json.loads(outgoing(step.then(b'{"count":12,"max_model_len":2048}')).body)
    assert sent["max_tokens"] == 2036
    assert [message["content"] for message in sent["messages"]] == ["hi"]


@pytest.mark.rule(126)
@pytest.mark.parametrize("path", ["chat", "generate", "raw"])
def test_no_limit_is_the_context_that_a_refusal_names(path: str) -> None:
    refusal = vllm_says(
        f"max_tokens={2**31 - 1} cannot be greater than max_model_len=1024. Please request fewer output tokens."
    )
    sent = json.loads(outgoing(adapt(refusal, path, num_predict=-1)).body)  # type: ignore[arg-type]
    assert sent["max_tokens"] == 1024
