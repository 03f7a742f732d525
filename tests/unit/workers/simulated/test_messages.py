"""Anthropic's messages: the chats that they mean, and the events of their streams."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.workers.simulated.test_streams import CALLS, TOKENS, Written, stream
from vllama_pool.workers.simulated.answers import Kind, Token
from vllama_pool.workers.simulated.errors import ApiError
from vllama_pool.workers.simulated.messages import MessagesStream
from vllama_pool.workers.simulated.messages_requests import as_chat, parse_messages
from vllama_pool.workers.simulated.shapes import ChatBody, NamedTool
from vllama_pool.workers.simulated.template import Strictness, refuses_later_systems

HI = [{"role": "user", "content": "Hi"}]
TOOL = {"name": "f", "input_schema": {"properties": {}}}
THOUGHT = Token(20, "I think.", Kind.REASONING, b'"I think."')


def chat(*, one_system: bool = False, **fields: Any) -> ChatBody:
    body = json.dumps({"model": "m", "max_tokens": 9, "messages": HI, **fields}).encode()
    return as_chat(parse_messages(body, "application/json", 4), one_system=one_system)


def roles(body: ChatBody) -> list[tuple[str, Any]]:
    return [(message.role, message.content) for message in body.messages]


def events(written: Written) -> list[dict[str, Any]]:
    return [json.loads(data.split(b"\ndata: ")[1]) for data in written.data]


def streamed(tokens: list[Token], finish: str, **head: Any) -> list[dict[str, Any]]:
    written = Written()
    output = stream(MessagesStream, written, **head)
    for token in tokens:
        output.token(0, token, finish if token is tokens[-1] else "", None)
    return events(written)


def test_system_texts_become_one_message_where_the_template_takes_one() -> None:
    messages = [*HI, {"role": "system", "content": "B"}, *HI]
    assert [role for role, _ in roles(chat(system="A", messages=messages))] == ["system", "user", "system", "user"]
    merged = roles(chat(system=[{"type": "text", "text": "A"}], messages=messages, one_system=True))
    assert merged == [("system", "AB"), ("user", "Hi"), ("user", "Hi")]


@pytest.mark.parametrize(("strict", "joined"), [("", False), ("system-first", False), ("no-system", True)])
def test_system_texts_are_joined_where_the_template_refuses_later_ones(strict: Strictness, joined: bool) -> None:
    assert refuses_later_systems(strict) == joined


def test_results_of_tools_come_before_the_rest_of_their_turn() -> None:
    called = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}]}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "22"}]}
    answered = {"role": "user", "content": [{"type": "text", "text": "and?"}, result]}
    body = chat(messages=[*HI, called, answered])
    assert [role for role, _ in roles(body)] == ["user", "assistant", "tool", "user"]
    assert body.messages[1].tool_calls[0].function.arguments == '{"a": 1}'  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [({"type": "auto"}, "auto"), ({"type": "any"}, "required"), ({"type": "none"}, "none")],
)
def test_tool_choices_have_other_names(choice: dict[str, Any], expected: str) -> None:
    assert chat(tools=[TOOL], tool_choice=choice).tool_choice == expected
    assert isinstance(chat(tools=[TOOL], tool_choice={"type": "tool", "name": "f"}).tool_choice, NamedTool)


def test_parallel_calls_may_be_disabled() -> None:
    body = chat(tools=[TOOL], tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert body.parallel_tool_calls is False


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 0},
        {"stop_sequences": list("abcde")},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"tool_choice": {"type": "tool"}},
        {"temperature": 3},
    ],
)
def test_an_invalid_message_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ApiError):
        chat(**fields)


def test_each_kind_of_text_has_a_block() -> None:
    found = streamed([THOUGHT, *TOKENS[:2], *CALLS], "tool_calls")
    kinds = [(event["type"], event.get("index")) for event in found]
    assert kinds[:2] == [("message_start", None), ("content_block_start", 0)]
    assert [event["content_block"]["type"] for event in found if event["type"] == "content_block_start"] == [
        "thinking",
        "text",
        "tool_use",
        "tool_use",
    ]
    assert [event["index"] for event in found if event["type"] == "content_block_stop"] == [0, 1, 2, 3]
    assert kinds[-2:] == [("message_delta", None), ("message_stop", None)]
    assert found[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}


def test_thinking_ends_with_its_signature() -> None:
    found = streamed([THOUGHT, TOKENS[0]], "stop")
    deltas = [event["delta"]["type"] for event in found if event["type"] == "content_block_delta"]
    assert deltas == ["thinking_delta", "signature_delta", "text_delta"]


def test_further_calls_are_hidden_where_one_is_wanted() -> None:
    found = streamed(CALLS, "tool_calls", max_calls=1)
    assert [event["content_block"]["name"] for event in found if "content_block" in event] == ["one"]


@pytest.mark.parametrize(("finish", "reason"), [("stop", "end_turn"), ("length", "max_tokens"), ("abort", None)])
def test_finish_reasons_have_other_names(finish: str, reason: str | None) -> None:
    assert streamed(TOKENS[:2], finish)[-2]["delta"]["stop_reason"] == reason


def test_an_error_hides_its_status() -> None:
    written = Written()
    stream(MessagesStream, written).fail(ApiError("overloaded", status=503))
    [event] = events(written)
    assert event["error"]["type"] == "internal_error"
    assert "2 validation errors for ChatCompletionStreamResponse" in event["error"]["message"]
