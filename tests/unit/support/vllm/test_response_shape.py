"""The shape of a stream is the same whether or not vLLM joined its deltas."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.vllm.response_shape import of_stream

NAME = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather"}}
ARGUMENTS = {"index": 0, "function": {"arguments": '{"city": "Paris"}'}}
CALL = {**NAME, "function": {**NAME["function"], **ARGUMENTS["function"]}}


@pytest.mark.parametrize(
    ("joined", "apart"),
    [
        ({"reasoning": "so", "content": "4"}, [{"reasoning": "so"}, {"content": "4"}]),
        ({"reasoning": "so"}, [{"reasoning": "s"}, {}, {"reasoning": "o"}]),
        (
            {"content": None, "tool_calls": [CALL]},
            [{"content": None, "tool_calls": [NAME]}, {"content": None, "tool_calls": [ARGUMENTS]}],
        ),
        (
            {"reasoning": "so", "content": "4", "tool_calls": [NAME, ARGUMENTS]},
            [
                {"reasoning": "so"},
                {"content": "4"},
                {"content": None, "tool_calls": [NAME]},
                {"content": None, "tool_calls": [ARGUMENTS]},
            ],
        ),
    ],
    ids=["thinking and content", "a hidden empty delta", "a tool call", "all of them"],
)
def test_joined_deltas_have_the_shape_of_their_parts(joined: dict[str, Any], apart: list[dict[str, Any]]) -> None:
    assert of_stream(_chat(joined)) == of_stream(_chat(*apart))


@pytest.mark.parametrize("delta", [{"content": "4"}, {"reasoning": "so", "content": "4"}])
def test_a_finish_reason_that_comes_with_the_last_delta_has_the_shape_of_one_that_follows(
    delta: dict[str, Any],
) -> None:
    together = _event({"index": 0, "delta": delta, "finish_reason": "stop", "stop_reason": None}, last=True)
    following = _event({"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": None}, last=True)
    assert of_stream(together) == of_stream(_chat(delta) + following)


def test_a_completion_in_one_event_has_the_shape_of_one_in_three() -> None:
    text = {"index": 0, "text": "a", "finish_reason": None, "stop_reason": None, "prompt_token_ids": None}
    first, last = {**text, "prompt_token_ids": [1, 2]}, {**text, "finish_reason": "length"}
    together = {**first, "finish_reason": "length"}
    assert of_stream(_event(together, last=True)) == of_stream(_event(first) + _event(text) + _event(last, last=True))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([{"reasoning": "so"}, {"content": "4"}], [{"content": "4"}, {"reasoning": "so"}]),
        ([{"content": "4"}], [{"reasoning": "so"}]),
        ([{"reasoning": None, "content": "4"}], [{"content": "4"}]),
        ([{"content": "4"}], [{"content": 4}]),
        ([{"content": None, "tool_calls": [NAME]}], [{"content": None, "tool_calls": [CALL]}]),
        ([{"reasoning": "so", "content": "4"}], [{"reasoning": "so", "content": "4", "refusal": None}]),
    ],
    ids=["the order", "the key", "hidden thinking", "the type", "no arguments", "a further key"],
)
def test_streams_with_other_parts_have_other_shapes(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    assert of_stream(_chat(*one)) != of_stream(_chat(*other))


def _chat(*deltas: dict[str, Any]) -> str:
    return "".join(_event({"index": 0, "delta": delta, "finish_reason": None}) for delta in deltas)


def _event(choice: dict[str, Any], *, last: bool = False) -> str:
    event = {"id": "chatcmpl-1", "created": 1, "choices": [choice], **({"system_fingerprint": "f"} if last else {})}
    return f"data: {json.dumps(event)}\n\n"
