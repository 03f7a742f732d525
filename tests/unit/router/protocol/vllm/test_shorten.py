"""Shortening of conversations: the candidates, and the choice."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.protocol import CLOCK, MODEL
from vllama_pool.config.routing.defaults import NO_DEFAULTS
from vllama_pool.router.errors import Refused
from vllama_pool.router.protocol.ollama import chat
from vllama_pool.router.protocol.ollama.messages import translate
from vllama_pool.router.protocol.ollama.model_plan import ModelPlan
from vllama_pool.router.protocol.ollama.requests import ChatMessage, decode_chat
from vllama_pool.router.protocol.operation import PreflightRequest, UpstreamRequest
from vllama_pool.router.protocol.vllm import api, shorten
from vllama_pool.router.protocol.vllm.errors import CONTEXT_EXCEEDED
from vllama_pool.router.protocol.vllm.shorten import Shortening, room, shortenings

TOO_LONG = Refused(CONTEXT_EXCEEDED, status=400)
LIMIT = 100
CALL = {"function": {"name": "f", "arguments": {}}}


def messages_of(*roles: str) -> list[api.VllmMessage]:
    """ "calls" stands for an assistant message with two tool calls."""
    messages = [
        ChatMessage(
            role="assistant", tool_calls=decode([{"role": "assistant", "tool_calls": [CALL, CALL]}])[0].tool_calls
        )
        if role == "calls"
        else ChatMessage(role=role, content=f"{position}")
        for position, role in enumerate(roles)
    ]
    return translate(messages)


def decode(messages: list[dict[str, Any]]) -> list[ChatMessage]:
    return decode_chat(json.dumps({"model": "m", "messages": messages}).encode()).messages or []


def kept(*roles: str) -> list[list[str]]:
    """Return the contents of every shortening, the whole conversation first."""
    messages = messages_of(*roles)
    whole, *shorter = shortenings(messages)
    assert whole.apply(messages) == messages
    return [[str(message.content) or "calls" for message in way.apply(messages)] for way in shorter]


@pytest.mark.rule(145)
def test_oldest_questions_are_dropped_with_their_answers() -> None:
    assert kept("system", "user", "assistant", "user", "assistant", "user") == [
        ["0", "3", "4", "5"],
        ["0", "5"],
    ]


@pytest.mark.rule(145)
def test_system_messages_and_the_last_message_stay() -> None:
    assert kept("system", "user", "system", "assistant", "user")[-1] == ["0", "2", "4"]
    assert kept("user", "assistant", "system")[-1] == ["1", "2"]
    for whole in (["system", "user"], ["user", "system"], ["system", "system"], ["system"], ["user"], ["tool"]):
        assert kept(*whole) == []


@pytest.mark.rule(145)
def test_calls_after_the_last_question_are_dropped_before_it() -> None:
    assert kept("user", "assistant", "user", "calls", "tool", "tool", "calls", "tool", "tool") == [
        ["2", "calls", "4", "5", "calls", "7", "8"],
        ["2", "calls", "7", "8"],
        ["calls", "7", "8"],
    ]


ROLES = st.lists(st.sampled_from(["system", "user", "assistant", "calls", "tool"]), min_size=1, max_size=14)


@given(ROLES)
def test_kept_messages_are_always_valid(roles: list[str]) -> None:
    messages = messages_of(*roles)
    found = [way.apply(messages) for way in shortenings(messages)]
    sizes = [len(shorter) for shorter in found]
    assert sizes == sorted(sizes, reverse=True)
    calls = {call.id for message in messages for call in message.tool_calls or ()}
    for shorter in found:
        assert shorter[-1] is messages[-1]
        assert [message for message in messages if message in shorter] == shorter
        assert [message for message in shorter if message.role == "system"] == [
            message for message in messages if message.role == "system"
        ]
        call_ids: set[str] = set()
        for message in shorter:
            call_ids |= {call.id for call in message.tool_calls or ()}
            assert message.tool_call_id is None or message.tool_call_id in call_ids or message.tool_call_id not in calls


def follow(step: Any, sizes: dict[str, int], limit: int = LIMIT) -> tuple[dict[str, Any], int]:
    """Answer preflight requests with message sizes in tokens. Returns the request and the number of preflights."""
    preflights = 0
    while isinstance(step, PreflightRequest):
        preflights += 1
        assert step.path == "/tokenize"
        messages = json.loads(step.body)["messages"]
        count = sum(sizes.get(message["content"], 10) for message in messages)
        step = step.then(msgspec.json.encode({"count": count, "max_model_len": limit}))
    assert isinstance(step, UpstreamRequest)
    sent: dict[str, Any] = json.loads(step.body)
    return sent, preflights


def adapted(messages: list[dict[str, Any]], sizes: dict[str, int] | None = None, **fields: Any) -> tuple[Any, int]:
    request = decode_chat(json.dumps({"model": "m", "messages": messages} | fields).encode())
    return follow(chat.adapt(request, ModelPlan(MODEL, NO_DEFAULTS), CLOCK, TOO_LONG), sizes or {})


def turns(count: int) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[index % 2], "content": f"{index}"} for index in range(count)]


@pytest.mark.rule(145)
def test_the_most_messages_that_fit_are_kept() -> None:
    sent, preflights = adapted(turns(1001))
    assert len(sent["messages"]) == 7  # 70 of 100 tokens: a quarter is reserved for the answer
    assert sent["messages"][-1]["content"] == "1000"
    assert "truncate_prompt_tokens" not in sent
    assert preflights <= 10
    sent, _ = adapted(turns(1001), options={"num_predict": 1})
    assert len(sent["messages"]) == 9


@pytest.mark.rule(62)
def test_a_last_message_that_is_too_long_is_truncated() -> None:
    sent, preflights = adapted(turns(5), {"4": 1000})
    assert [message["content"] for message in sent["messages"]] == ["4"]
    assert sent["truncate_prompt_tokens"] == 75
    assert preflights <= 3
    sent, _ = adapted(turns(5), {"4": 1000}, options={"num_predict": 10})
    assert sent["truncate_prompt_tokens"] == 90


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30))
def test_binary_search_finds_the_longest_conversation_that_fits(sizes: list[int]) -> None:
    messages = turns(len(sizes))
    by_content = {f"{index}": size for index, size in enumerate(sizes)}
    sent, _ = adapted(messages, by_content)
    fitting = [way for way in shortenings(translate(decode(messages))) if _size(way, sizes) <= 75]
    if not fitting:
        assert sent["truncate_prompt_tokens"] == 75
    else:
        assert len(sent["messages"]) == max(len(way.apply(messages_of(*["user"] * len(sizes)))) for way in fitting)


def _size(way: Shortening, sizes: list[int]) -> int:
    return sum(sizes[way.start :]) + (sizes[way.question] if way.question is not None else 0)


@pytest.mark.parametrize(
    ("limit", "max_tokens", "expected"), [(100, None, 25), (100, 7, 7), (100, 50, 25), (2, None, 1), (100, 0, 25)]
)
def test_room_is_a_quarter_of_the_context_or_max_tokens(limit: int, max_tokens: int | None, expected: int) -> None:
    assert room(limit, max_tokens) == expected


@pytest.mark.rule(63)
@pytest.mark.parametrize("fields", [{"truncate": False}, {"shift": False}])
def test_truncate_or_shift_false_prevents_shortening(fields: dict[str, Any]) -> None:
    request = decode_chat(json.dumps({"model": "m", "messages": turns(5)} | fields).encode())
    assert chat.adapt(request, ModelPlan(MODEL, NO_DEFAULTS), CLOCK, TOO_LONG) is None


def test_max_tokens_is_limited_to_the_remaining_context() -> None:
    """Older releases of vLLM refuse a larger max_tokens."""
    sent, _ = adapted(turns(1), options={"num_predict": 1000})
    assert (len(sent["messages"]), sent["max_tokens"]) == (1, 90)
    sent, _ = adapted(turns(1), {"0": 500}, options={"num_predict": 1000})
    assert (sent["truncate_prompt_tokens"], sent["max_tokens"]) == (75, 25)


def test_text_far_above_the_context_is_not_counted() -> None:
    """The model's context is 2048 tokens here."""
    huge = {"role": "user", "content": "x" * 2048 * 257}
    sent, preflights = adapted([huge], {})
    assert (preflights, sent["truncate_prompt_tokens"]) == (0, 2048 - 512)
    sent, preflights = adapted([huge, *turns(3)], {})
    assert preflights <= 2
    assert len(sent["messages"]) == 3


def test_shortening_a_long_conversation_is_fast() -> None:
    began = time.process_time()
    assert len(shortenings(messages_of(*["user", "assistant"] * 5000))) == 5001
    assert time.process_time() - began < 5


def test_tools_and_thinking_are_counted() -> None:
    request = decode_chat(json.dumps({"model": "m", "messages": turns(5), "tools": [CALL]}).encode())
    step = chat.adapt(
        request, ModelPlan(msgspec.structs.replace(MODEL, capabilities=("thinking",)), NO_DEFAULTS), CLOCK, TOO_LONG
    )
    assert isinstance(step, PreflightRequest)
    preflight = json.loads(step.body)
    assert preflight["tools"][0]["function"]["name"] == "f"
    assert preflight["chat_template_kwargs"] == {"enable_thinking": True, "thinking": True}
    assert shorten.SHARE > 1
