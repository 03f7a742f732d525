"""OpenAI's responses: the chats that they mean, and the events of their streams."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.workers.simulated.test_messages import THOUGHT, events
from tests.unit.workers.simulated.test_streams import CALLS, TOKENS, Written, stream
from vllama_pool.workers.simulated.answers import Token
from vllama_pool.workers.simulated.errors import ApiError
from vllama_pool.workers.simulated.responses import ResponsesStream
from vllama_pool.workers.simulated.responses_chat import as_chat
from vllama_pool.workers.simulated.responses_requests import parse_responses, repeated
from vllama_pool.workers.simulated.shapes import AssistantMessage, ChatBody

TOOL = {"type": "function", "name": "f", "parameters": {}}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
REASONING = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}


def chat(*, calls: bool = True, **fields: Any) -> ChatBody:
    body = json.dumps({"model": "m", "input": "Hi", **fields}).encode()
    return as_chat(parse_responses(body, "application/json"), calls=calls)


def test_a_server_without_a_parser_calls_no_tool() -> None:
    assert chat(tools=[TOOL], tool_choice="required").tool_choice == "required"
    assert chat(tools=[TOOL], tool_choice="required", calls=False).tool_choice == "none"


def streamed(tokens: list[Token], finish: str, **head: Any) -> list[dict[str, Any]]:
    written = Written()
    output = stream(ResponsesStream, written, **head)
    output.begin()
    for token in tokens:
        output.token(0, token, finish if token is tokens[-1] else "", None)
    return events(written)


def test_a_turn_of_the_assistant_is_one_message() -> None:
    said = {"role": "assistant", "content": [{"type": "output_text", "text": "I look."}]}
    output = {"type": "function_call_output", "call_id": "c", "output": "22"}
    messages = chat(input=[{"role": "user", "content": "Hi"}, REASONING, said, CALL, CALL, output]).messages
    assert [message.role for message in messages] == ["user", "assistant", "tool"]
    assistant = messages[1]
    assert isinstance(assistant, AssistantMessage)
    assert (assistant.reasoning, assistant.content, len(assistant.tool_calls or ())) == ("hm", "I look.", 2)


def test_two_answers_in_a_row_stay_two_messages() -> None:
    said = {"role": "assistant", "content": "A"}
    assert len(chat(input=[said, said]).messages) == 2


def test_instructions_are_the_system_message() -> None:
    first, second = chat(instructions="Be brief.").messages
    assert (first.role, first.content, second.content) == ("system", "Be brief.", "Hi")


def test_an_unfinished_message_is_continued() -> None:
    begun = {"type": "message", "role": "assistant", "status": "incomplete", "content": "Hel"}
    body = chat(input=[{"role": "user", "content": "Hi"}, begun])
    assert (body.continue_final_message, body.add_generation_prompt) == (True, False)


@pytest.mark.parametrize(
    "fields",
    [
        {"background": True},
        {"previous_response_id": "resp_x"},
        {"prompt": {"id": "x"}},
        {"tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}},
        {"input": [{"type": "made_up"}]},
        {"input": [{"type": "function_call", "call_id": "c", "name": "f"}]},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"include": ["made_up"]},
        {"temperature": 3},
    ],
)
def test_an_invalid_request_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ApiError):
        chat(**fields)


def test_a_response_repeats_its_request() -> None:
    body = {"model": "m", "input": "Hi", "tools": [TOOL], "metadata": {"a": "b"}, "reasoning": {"effort": "low"}}
    fields = repeated(parse_responses(json.dumps(body).encode(), "application/json"))
    assert (fields["tool_choice"], fields["metadata"]) == ("auto", {"a": "b"})
    assert fields["tools"][0].items() >= {"name": "f", "strict": None}.items()
    assert fields["reasoning"] == {
        "effort": "low",
        "context": None,
        "generate_summary": None,
        "mode": None,
        "summary": None,
    }


def test_items_open_and_close_in_their_order() -> None:
    found = streamed([THOUGHT, *TOKENS[:2], *CALLS], "tool_calls")
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert [event["type"] for event in found[:3]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
    ]
    done = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert [item["type"] for item in done] == ["reasoning", "message", "function_call", "function_call"]
    assert done[1]["content"][0]["text"] == "0 1 "
    assert found[-1]["type"] == "response.completed"
    assert found[-1]["response"]["output"] == done


def test_the_first_events_come_before_the_first_token() -> None:
    written = Written()
    stream(ResponsesStream, written).begin()
    assert [event["type"] for event in events(written)] == ["response.created", "response.in_progress"]


@pytest.mark.parametrize(
    ("finish", "status"), [("stop", "completed"), ("length", "incomplete"), ("abort", "completed")]
)
def test_a_finish_reason_is_a_status(finish: str, status: str) -> None:
    last = streamed(TOKENS[:2], finish)[-1]["response"]
    assert last["status"] == status
    assert (last["incomplete_details"] is not None) == (status == "incomplete")


def test_hidden_reasoning_has_no_item() -> None:
    found = streamed([THOUGHT, TOKENS[0]], "stop", include_reasoning=False)
    assert [item["type"] for item in found[-1]["response"]["output"]] == ["message"]


def test_an_error_breaks_the_stream() -> None:
    written = Written()
    output = stream(ResponsesStream, written)
    output.fail(ApiError("x"))
    assert output.broken
    assert len(written.data) == 2
