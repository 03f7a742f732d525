"""OpenAI's responses, whole and streamed, without state."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.support.vllm.server_pair import RESPONSES, TIMEOUT, ServerPair, field_names
from tests.support.vllm.weather_tool import CHAT as WEATHER

ASK = {"input": "What is 2+2?"}
NO_THINKING = {"reasoning": {"effort": "none"}}
FUNCTION = WEATHER["tools"][0]["function"]
TOOL = {"type": "function", **FUNCTION}
ASK_WEATHER = {"input": WEATHER["messages"], "tools": [TOOL]}
CALLED = [
    *WEATHER["messages"],
    {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "I look."}]},
    {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"city": "Paris"}'},
    {"type": "function_call_output", "call_id": "c1", "output": "22"},
]
ANSWERED = [
    {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
    {
        "type": "message",
        "id": "m1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Hello!", "annotations": []}],
    },
    {"role": "user", "content": "What is 2+2?"},
]
LOGPROBS = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
in_both_modes = pytest.mark.parametrize("mode", [{}, {"stream": True}], ids=["whole", "streamed"])


def text_format(**fields: Any) -> dict[str, Any]:
    return {"text": {"format": fields}}


def events_of(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]


def response_of(answer: httpx.Response) -> dict[str, Any]:
    """Return the response, from the last event of a stream."""
    events = events_of(answer)
    found: dict[str, Any] = events[-1]["response"] if events else answer.json()
    return found


def read_lines(url: str, body: dict[str, Any], lines: list[str]) -> None:
    with httpx.stream("POST", url + RESPONSES, json=body, trust_env=False, timeout=TIMEOUT) as answer:
        lines += answer.iter_lines()


@in_both_modes
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({**ASK}, "completed"),
        ({**ASK, **NO_THINKING}, "completed"),
        ({**ASK, "reasoning": {"effort": "low", "summary": "auto"}}, "completed"),
        ({**ASK, "include_reasoning": False}, "completed"),
        ({**ASK, "max_output_tokens": 5}, "incomplete"),
        ({**ASK, "max_output_tokens": 5, **NO_THINKING}, "incomplete"),
        ({**ASK, "max_output_tokens": 1}, "incomplete"),
        ({**ASK, "max_output_tokens": 3, **NO_THINKING, **LOGPROBS}, "incomplete"),
        ({**ASK, "max_output_tokens": 3, "top_logprobs": 2}, "incomplete"),
        ({**ASK, "instructions": "Be brief.", "max_output_tokens": 3}, "incomplete"),
        ({**ASK, "truncation": "auto", "max_output_tokens": 3}, "incomplete"),
        ({**ASK, "store": True, "max_output_tokens": 3, "made_up_field": 1}, "incomplete"),
        ({**ASK, "stream_options": {"include_obfuscation": True}, "max_output_tokens": 3}, "incomplete"),
        (
            {
                **ASK,
                "metadata": {"a": "b"},
                "user": "me",
                "service_tier": "flex",
                "parallel_tool_calls": False,
                "max_tool_calls": 3,
                "top_p": 0.9,
                "presence_penalty": 0.1,
                "max_output_tokens": 3,
            },
            "incomplete",
        ),
        ({"input": ANSWERED, **NO_THINKING, "max_output_tokens": 4}, "incomplete"),
        ({**ASK_WEATHER}, "completed"),
        ({**ASK_WEATHER, **NO_THINKING}, "completed"),
        ({**ASK_WEATHER, "tool_choice": "required", **NO_THINKING}, "completed"),
        ({**ASK_WEATHER, "tool_choice": {"type": "function", "name": "get_weather"}, **NO_THINKING}, "completed"),
        ({**ASK_WEATHER, "tool_choice": "none", "max_output_tokens": 4, **NO_THINKING}, "incomplete"),
        ({**ASK_WEATHER, "parallel_tool_calls": False, **NO_THINKING}, "completed"),
        ({**ASK_WEATHER, "max_output_tokens": 22, **NO_THINKING}, "incomplete"),
        ({"input": CALLED, "tools": [TOOL], **NO_THINKING}, "completed"),
        ({**ASK, **text_format(type="json_object"), "max_output_tokens": 5}, "incomplete"),
        ({**ASK, **text_format(type="json_schema", name="x", schema={"type": "boolean"}), **NO_THINKING}, "completed"),
    ],
    ids=lambda value: field_names(value) if isinstance(value, dict) else value,
)
def test_the_simulated_response_is_the_real_one(
    thinking_pair: ServerPair, fields: dict[str, Any], status: str, mode: dict[str, Any]
) -> None:
    for answer in thinking_pair.compare_fields(RESPONSES, **fields, **mode):
        assert response_of(answer)["status"] == status


def test_events_are_numbered_from_0_on(thinking_pair: ServerPair) -> None:
    for answer in thinking_pair.compare_fields(RESPONSES, **ASK_WEATHER, stream=True):
        events = events_of(answer)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        places = [event["output_index"] for event in events if "output_index" in event]
        assert places == sorted(places)


def test_a_response_has_the_id_of_its_request(thinking_pair: ServerPair) -> None:
    for answer in thinking_pair.compare_fields(RESPONSES, **ASK, max_output_tokens=1, request_id="resp_mine"):
        assert answer.json()["id"] == "resp_mine"


@pytest.mark.parametrize(
    "fields",
    [
        {"input": []},
        {"input": None},
        {"input": 5},
        {"input": [{"type": "made_up"}]},
        {"input": [{"type": "function_call", "call_id": "c", "name": "f"}]},
        {"input": [{"type": "function_call_output", "call_id": "c"}]},
        {"input": [{"role": "user"}]},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"input": "hello " * 3000},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,xx"}]}]},
        {"model": "nope"},
        {"max_output_tokens": 0},
        {"max_output_tokens": 100_000},
        {"max_output_tokens": "x"},
        {"temperature": 3},
        {"temperature": -1},
        {"top_p": 0},
        {"presence_penalty": 3},
        {"service_tier": "bogus"},
        {"truncation": "bogus"},
        {"reasoning": {"effort": "bogus"}},
        {"include": ["bogus"]},
        {"tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "name": "nope"}},
        {"tools": "x"},
        {"previous_response_id": "resp_x"},
        {"background": True},
        {"background": True, "store": False},
        {"prompt": {"id": "x"}},
        {"metadata": {"a": 5}},
    ],
    ids=lambda fields: str(fields).replace(" ", "")[:50],
)
@in_both_modes
def test_an_invalid_response_request_gets_the_real_error(
    thinking_pair: ServerPair, fields: dict[str, Any], mode: dict[str, Any]
) -> None:
    real, _ = thinking_pair.compare(RESPONSES, {"model": thinking_pair.model, **ASK, **mode, **fields})
    assert real.status_code >= 400


@pytest.mark.parametrize("fields", [text_format(type="json_schema", name="x", schema={"type": "nope"})])
def test_an_error_of_the_engine_cuts_a_streamed_response(thinking_pair: ServerPair, fields: dict[str, Any]) -> None:
    """vLLM has no event for it."""
    real, _ = thinking_pair.compare_fields(RESPONSES, **ASK, **fields)
    assert real.status_code == 400
    for url in thinking_pair.urls:
        body = {"model": thinking_pair.model, **ASK, **fields, "stream": True}
        lines: list[str] = []
        with pytest.raises(httpx.RemoteProtocolError):
            read_lines(url, body, lines)
        named = [line for line in lines if line.startswith("event: ")]
        assert named == ["event: response.created", "event: response.in_progress"]


@pytest.mark.parametrize("body", [b"{bad json", b"[]", b""])
def test_a_response_request_that_is_not_a_json_object_gets_the_real_error(
    thinking_pair: ServerPair, body: bytes
) -> None:
    thinking_pair.compare(RESPONSES, body)


def test_the_responses_route_takes_only_posts_of_json(thinking_pair: ServerPair) -> None:
    thinking_pair.compare(RESPONSES, method="GET")
    thinking_pair.compare(RESPONSES, b"{}", headers={"content-type": "text/plain"})


@pytest.mark.parametrize("path", [f"{RESPONSES}/resp_x", f"{RESPONSES}/resp_x/cancel", f"{RESPONSES}/resp_x/made_up"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_no_response_is_stored(thinking_pair: ServerPair, path: str, method: str) -> None:
    thinking_pair.compare(path, method=method)


def test_tools_without_a_parser_get_the_real_answer_in_responses(chat_pair: ServerPair) -> None:
    for choice in ("auto", "required"):
        chat_pair.compare_fields(RESPONSES, **ASK_WEATHER, max_output_tokens=3, tool_choice=choice)
