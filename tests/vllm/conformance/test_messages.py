"""Anthropic's messages, whole and streamed, and the count of their tokens."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.support.vllm.server_pair import MESSAGES, NO_THINKING, QUESTION, ServerPair, field_names
from tests.support.vllm.weather_tool import CHAT as WEATHER

COUNT = f"{MESSAGES}/count_tokens"
FUNCTION = WEATHER["tools"][0]["function"]
TOOL = {"name": FUNCTION["name"], "description": FUNCTION["description"], "input_schema": FUNCTION["parameters"]}
ASK_WEATHER = {"messages": WEATHER["messages"], "tools": [TOOL]}
CALLED = [
    *WEATHER["messages"],
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "I look.", "signature": "x"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Paris"}},
        ],
    },
    {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "22"}]}],
    },
]
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "xx"}}
in_both_modes = pytest.mark.parametrize("mode", [{}, {"stream": True}], ids=["whole", "streamed"])


def schema(value: dict[str, Any]) -> dict[str, Any]:
    return {"output_config": {"format": {"type": "json_schema", "schema": value}}}


def stop_of(answer: httpx.Response) -> tuple[str | None, str | None]:
    """Return the stop reason and the stop sequence."""
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    events = [json.loads(line) for line in lines]
    found = answer.json() if not lines else next(event["delta"] for event in events if event["type"] == "message_delta")
    return found.get("stop_reason"), found.get("stop_sequence")


@in_both_modes
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({**QUESTION}, "end_turn"),
        ({**QUESTION, **NO_THINKING}, "end_turn"),
        ({**QUESTION, "thinking": {"type": "disabled"}}, "end_turn"),
        ({**QUESTION, "thinking": {"type": "adaptive"}}, "end_turn"),
        ({**QUESTION, "max_tokens": 5}, "max_tokens"),
        ({**QUESTION, "max_tokens": 5, **NO_THINKING}, "max_tokens"),
        ({**QUESTION, "max_tokens": 1}, "max_tokens"),
        ({**QUESTION, "stop_sequences": ["ount"], **NO_THINKING}, "stop_sequence"),
        ({**QUESTION, "system": "Be brief.", "max_tokens": 3}, "max_tokens"),
        ({**QUESTION, "system": [{"type": "text", "text": "Be brief."}], "max_tokens": 3}, "max_tokens"),
        ({**QUESTION, "metadata": {"user_id": "me"}, "service_tier": "auto", "max_tokens": 3}, "max_tokens"),
        ({**QUESTION, "tools": [], "tool_choice": {"type": "auto"}, "max_tokens": 3}, "max_tokens"),
        ({**ASK_WEATHER}, "tool_use"),
        ({**ASK_WEATHER, **NO_THINKING}, "tool_use"),
        ({**ASK_WEATHER, "tool_choice": {"type": "any"}, **NO_THINKING}, "tool_use"),
        ({**ASK_WEATHER, "tool_choice": {"type": "tool", "name": "get_weather"}, **NO_THINKING}, "tool_use"),
        ({**ASK_WEATHER, "tool_choice": {"type": "none"}, "max_tokens": 4, **NO_THINKING}, "max_tokens"),
        (
            {**ASK_WEATHER, "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}, **NO_THINKING},
            "tool_use",
        ),
        ({**ASK_WEATHER, "messages": CALLED, **NO_THINKING}, "end_turn"),
        ({**QUESTION, **schema({"type": "boolean"}), **NO_THINKING}, "end_turn"),
    ],
    ids=lambda value: field_names(value) if isinstance(value, dict) else value,
)
def test_the_simulated_message_is_the_real_one(
    thinking_pair: ServerPair, fields: dict[str, Any], reason: str, mode: dict[str, Any]
) -> None:
    for answer in thinking_pair.compare_fields(MESSAGES, **{"max_tokens": 200, **fields}, **mode):
        assert stop_of(answer)[0] == reason


@in_both_modes
def test_a_stop_sequence_is_reported(thinking_pair: ServerPair, mode: dict[str, Any]) -> None:
    fields = {**QUESTION, "stop_sequences": ["count"], "max_tokens": 200, **NO_THINKING}
    for answer in thinking_pair.compare_fields(MESSAGES, **fields, **mode):
        assert stop_of(answer) == ("stop_sequence", "count")


def test_a_call_that_is_cut_off_is_text_unless_streamed(thinking_pair: ServerPair) -> None:
    real, _ = thinking_pair.compare_fields(MESSAGES, **ASK_WEATHER, **NO_THINKING, max_tokens=22)
    assert real.json()["content"][0]["text"].startswith("<tool_call>")
    thinking_pair.compare_fields(MESSAGES, **ASK_WEATHER, **NO_THINKING, max_tokens=22, stream=True)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 0},
        {"max_tokens": None},
        {"max_tokens": "x"},
        {"max_tokens": 100_000},
        {"messages": []},
        {"messages": "x"},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": "hello " * 3000}]},
        {"messages": [{"role": "user", "content": [IMAGE]}]},
        {"model": "nope"},
        {"model": ""},
        {"temperature": 3},
        {"temperature": -1},
        {"top_p": 0},
        {"top_k": -2},
        {"stop_sequences": list("abcde")},
        {"stop_sequences": [""]},
        {"stop_sequences": "x"},
        {"tools": [{"name": "x"}]},
        {"tool_choice": {"type": "tool"}},
        {"tool_choice": {"type": "bogus"}},
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "nope"}},
        {"thinking": {"type": "enabled", "budget_tokens": 10}},
        {"thinking": {"type": "enabled", "budget_tokens": 2000}},
        {"thinking": {"type": "bogus"}},
        schema({"type": "nope"}),
    ],
    ids=lambda fields: str(fields).replace(" ", "")[:50],
)
@in_both_modes
def test_an_invalid_message_gets_the_real_error(
    thinking_pair: ServerPair, fields: dict[str, Any], mode: dict[str, Any]
) -> None:
    body = {"model": thinking_pair.model, **QUESTION, "max_tokens": 3, **mode, **fields}
    real, _ = thinking_pair.compare(MESSAGES, body)
    assert real.status_code >= 400 or "event: error" in real.text


@pytest.mark.parametrize(
    "fields",
    [
        {**QUESTION},
        {**ASK_WEATHER, "system": "Be brief."},
        {"messages": CALLED, "tools": [TOOL]},
        {**QUESTION, **NO_THINKING},
        {**QUESTION, "thinking": {"type": "disabled"}},
        {**QUESTION, "model": "nope"},
        {"messages": []},
        {},
        {"messages": [{"role": "user", "content": "hello " * 3000}]},
    ],
    ids=lambda fields: str(fields).replace(" ", "")[:50],
)
def test_tokens_of_a_message_are_counted_as_by_the_real_server(
    thinking_pair: ServerPair, fields: dict[str, Any]
) -> None:
    thinking_pair.compare_fields(COUNT, **fields)


def test_the_counted_tokens_are_those_of_the_answers_usage(thinking_pair: ServerPair) -> None:
    for url in thinking_pair.urls:
        counted = thinking_pair.post(url, COUNT, **ASK_WEATHER)["input_tokens"]
        assert thinking_pair.post(url, MESSAGES, **ASK_WEATHER, max_tokens=1)["usage"]["input_tokens"] == counted


@pytest.mark.parametrize("body", [b"{bad json", b"[]", b""])
def test_a_message_that_is_not_a_json_object_gets_the_real_error(thinking_pair: ServerPair, body: bytes) -> None:
    thinking_pair.compare(MESSAGES, body)


def test_the_message_routes_take_only_posts_of_json(thinking_pair: ServerPair) -> None:
    for path in (MESSAGES, COUNT):
        thinking_pair.compare(path, method="GET")
        thinking_pair.compare(path, b"{}", headers={"content-type": "text/plain"})


def test_tools_without_a_parser_are_refused_in_messages(chat_pair: ServerPair) -> None:
    for choice in ({"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "get_weather"}):
        real, _ = chat_pair.compare_fields(MESSAGES, **ASK_WEATHER, max_tokens=3, tool_choice=choice)
        assert real.status_code == 400
