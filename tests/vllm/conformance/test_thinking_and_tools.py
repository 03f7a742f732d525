"""Thinking, tool calls and schemas."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.vllm.server_pair import BEGUN, CHAT, NO_THINKING, QUESTION, ServerPair, every_mode, field_names
from tests.support.vllm.weather_tool import CHAT as WEATHER

GET_WEATHER = {"type": "function", "function": {"name": "get_weather"}}


@every_mode
@pytest.mark.parametrize(
    "fields",
    [
        {},
        NO_THINKING,
        {"reasoning_effort": "none"},
        {"reasoning_effort": "low"},
        {"include_reasoning": False},
        {"max_tokens": 5},
        {"max_tokens": 8, "logprobs": True, "return_token_ids": True},
        {"max_tokens": 20, "ignore_eos": True, **NO_THINKING},
        {"response_format": {"type": "json_object"}, "max_tokens": 8},
    ],
    ids=field_names,
)
def test_a_simulated_answer_with_thinking_has_the_shape_of_the_real_one(
    thinking_pair: ServerPair, fields: dict[str, Any], mode: dict[str, Any]
) -> None:
    thinking_pair.compare_fields(CHAT, **QUESTION, **fields, **mode)


@every_mode
@pytest.mark.parametrize(
    "fields",
    [
        {},
        NO_THINKING,
        {"tool_choice": "required", **NO_THINKING},
        {"tool_choice": GET_WEATHER, **NO_THINKING},
        {"tool_choice": "none", "max_tokens": 6, **NO_THINKING},
        {"tool_choice": "auto", "parallel_tool_calls": False, **NO_THINKING},
        {"parallel_tool_calls": True, "max_completion_tokens": 100, **NO_THINKING},
    ],
    ids=field_names,
)
def test_a_simulated_tool_call_has_the_shape_of_the_real_one(
    thinking_pair: ServerPair, fields: dict[str, Any], mode: dict[str, Any]
) -> None:
    thinking_pair.compare_fields(CHAT, **WEATHER, **fields, **mode)


@every_mode
@pytest.mark.parametrize("fields", [{}, NO_THINKING], ids=field_names)
def test_a_simulated_continuation_has_the_shape_of_the_real_one(
    thinking_pair: ServerPair, fields: dict[str, Any], mode: dict[str, Any]
) -> None:
    """Without a think tag in the prompt, both call the continuation thinking unless thinking is off."""
    for answer in thinking_pair.compare_fields(CHAT, **BEGUN, **fields, **mode, max_tokens=8):
        assert ('"content":" ' in answer.text) == (fields == NO_THINKING) != ('"reasoning":" ' in answer.text)


def test_a_greeting_calls_no_tool_and_a_tool_result_is_answered(thinking_pair: ServerPair) -> None:
    hello = {"messages": [{"role": "user", "content": "hi"}]}
    thinking_pair.compare_fields(CHAT, **{**WEATHER, **hello}, **NO_THINKING)
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        *WEATHER["messages"],
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "22", "tool_call_id": "c1"},
    ]
    for answer in thinking_pair.compare_fields(CHAT, **{**WEATHER, "messages": messages}, **NO_THINKING):
        assert answer.json()["choices"][0]["finish_reason"] == "stop"


def test_the_deltas_of_a_tool_call_join_to_its_arguments(thinking_pair: ServerPair) -> None:
    for answer in thinking_pair.compare_fields(CHAT, **WEATHER, **NO_THINKING, stream=True):
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        calls = [call for event in events for call in event["choices"][0]["delta"].get("tool_calls", ())]
        arguments = "".join(call["function"].get("arguments", "") for call in calls)
        assert set(json.loads(arguments)) == {"city", "unit"}


def test_an_answer_conforms_to_its_json_schema(thinking_pair: ServerPair) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "boolean"}}}
    for answer in thinking_pair.compare_fields(CHAT, **QUESTION, **NO_THINKING, response_format=schema):
        assert json.loads(answer.json()["choices"][0]["message"]["content"]) in (True, False)
