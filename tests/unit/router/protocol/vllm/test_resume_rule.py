"""Requests and states in which another worker may continue an answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vllama_pool.router.protocol.openai.requests import CHAT, COMPLETION
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.resumable import refusal
from vllama_pool.router.protocol.vllm.resume_rule import (
    Interruption,
    field_refusal,
    interruption_refusal,
    is_usual,
    sampling_refusal,
)
from vllama_pool.workers.registry.record import ModelInfo

INFO = ModelInfo(name="m")


def text(**fields: Any) -> api.VllmCompletionRequest:
    return api.VllmCompletionRequest(model="m", prompt="", stream=True, stream_options=api.INCLUDE_USAGE, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0.7, "top_k": 40, "stop": ["x"], "max_tokens": 5},
        {"seed": 7, "temperature": 0},
        {"repetition_penalty": 1.0, "presence_penalty": 0.0},
    ],
)
def test_sampling_that_looks_at_one_token_at_a_time_can_go_on(fields: dict[str, Any]) -> None:
    assert sampling_refusal(text(**fields), INFO) == ""


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"repetition_penalty": 1.1}, "penalty"),
        ({"presence_penalty": 0.5}, "penalty"),
        ({"frequency_penalty": -0.5}, "penalty"),
        ({"seed": 7}, "seed"),
        ({"seed": 0, "temperature": 0.5}, "seed"),
    ],
)
def test_sampling_that_depends_on_the_tokens_before_cannot(fields: dict[str, Any], reason: str) -> None:
    assert sampling_refusal(text(**fields), INFO) == reason


def test_a_penalty_of_the_models_own_configuration_counts_unless_the_request_has_one() -> None:
    info = ModelInfo(name="m", defaults={"repeat_penalty": 1.2})
    assert sampling_refusal(text(), info) == "penalty"
    assert sampling_refusal(text(repetition_penalty=1.0), info) == ""


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (b'{"model":"m","n":1,"temperature":1,"stream_options":{"include_usage":true}}', ""),
        (b'{"echo":false,"logprobs":false}', ""),
        (b'{"n":2}', "n"),
        (b'{"logprobs":true}', "logprobs"),
        (b'{"logprobs":0}', "logprobs"),
        (b'{"tools":[{}]}', "tools"),
        (b'{"response_format":{"type":"json_object"}}', "response_format"),
        (b'{"structured_outputs":{"regex":"a"}}', "structured_outputs"),
        (b'{"echo":true}', "echo"),
        (b'{"return_token_ids":true}', "return_token_ids"),
        (b'{"stream_options":{"continuous_usage_stats":true}}', "stream_options"),
        (b'{"bad_words":["a"]}', "bad_words"),
    ],
)
def test_fields_of_an_openai_request_that_rule_it_out(fields: bytes, reason: str) -> None:
    assert field_refusal(fields) == reason


@pytest.mark.parametrize("decoder", [CHAT, COMPLETION])
@pytest.mark.parametrize(
    ("fields", "usual"),
    [
        (b'{"model":"m","temperature":1,"top_p":0.5,"max_tokens":9,"stream":true,"user":"u","stop":["a"]}', True),
        (b'{"stream_options":{"include_usage":true}}', True),
        (b'{"stream_options":{"continuous_usage_stats":true}}', False),
        *((b'{"%b":true}' % name, False) for name in (b"echo", b"use_beam_search", b"return_token_ids")),
        *((b'{"%b":1}' % name, False) for name in (b"n", b"prompt_logprobs", b"thinking_token_budget")),
        *(
            (b'{"%b":{}}' % name, False)
            for name in (b"response_format", b"structured_outputs", b"repetition_detection")
        ),
        (b'{"bad_words":[]}', False),
    ],
)
def test_no_request_with_a_restricted_field_is_usual(decoder: Any, fields: bytes, usual: bool) -> None:
    request = decoder.decode(fields)
    assert is_usual(request) is usual
    if usual:
        assert field_refusal(api.encode(request)) == ""


@pytest.mark.parametrize(
    ("decoder", "fields"),
    [
        (CHAT, b'{"logprobs":true}'),
        (CHAT, b'{"top_logprobs":1}'),
        (CHAT, b'{"include_reasoning":false}'),
        (CHAT, b'{"tools":[{"type":"function"}]}'),
        (COMPLETION, b'{"logprobs":0}'),
        (COMPLETION, b'{"suffix":"x"}'),
    ],
)
def test_no_request_with_a_restricted_field_of_its_route_is_usual(decoder: Any, fields: bytes) -> None:
    assert not is_usual(decoder.decode(fields))


def test_a_kept_request_with_logprobs_or_a_format_cannot_go_on() -> None:
    assert refusal(text(), INFO) == ""
    assert refusal(text(logprobs=0), INFO) == "logprobs"
    assert refusal(text(response_format=api.VllmResponseFormat("json_object")), INFO) == "response_format"


def test_an_interrupted_answer_goes_on_once_with_known_tokens_and_another_replica() -> None:
    state = Interruption(replicas=1)
    assert interruption_refusal(state) == ""
    assert interruption_refusal(replace(state, finished=True)) == "finished"
    assert interruption_refusal(replace(state, resumed=1)) == "resumed before"
    assert interruption_refusal(replace(state, complete_log=False)) == "unknown tokens"
    assert interruption_refusal(replace(state, reasoning_open=True)) == "open reasoning"
    assert interruption_refusal(replace(state, replicas=0)) == "no replica"
