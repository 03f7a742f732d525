"""Matching of tool results with calls, whatever clients omit."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.protocol import CLOCK, THINKER, outgoing
from vllama_pool.config.routing.defaults import NO_DEFAULTS
from vllama_pool.router.protocol.ollama import chat
from vllama_pool.router.protocol.ollama.messages import translate
from vllama_pool.router.protocol.ollama.model_plan import ModelPlan
from vllama_pool.router.protocol.ollama.requests import CalledTool, CalledToolFunction, ChatMessage, decode_chat


def upstream(*messages: dict[str, Any], **fields: Any) -> Any:
    """Return the body of the request to vLLM."""
    request = decode_chat(json.dumps({"model": "x", "messages": messages} | fields).encode())
    return json.loads(outgoing(chat.prepare(request, ModelPlan(THINKER, NO_DEFAULTS), CLOCK)).body)


def call(name: str, id: str | None = None, **arguments: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}} | ({"id": id} if id else {})


@pytest.mark.rule(77, 78)
@pytest.mark.trap(2)
def test_results_are_matched_by_id_then_name_then_order() -> None:
    sent = upstream(
        {"role": "assistant", "tool_calls": [call("a", "one"), call("b"), call("c"), call("d")]},
        {"role": "tool", "content": "first without a hint"},
        {"role": "tool", "content": "c", "tool_name": "c"},
        {"role": "tool", "content": "a", "tool_call_id": "one"},
        {"role": "tool", "content": "second without a hint"},
    )
    ids = [tool_call["id"] for tool_call in sent["messages"][0]["tool_calls"]]
    assert ids[0] == "one"
    assert len(set(ids)) == 4
    results = {message["content"]: message["tool_call_id"] for message in sent["messages"][1:]}
    assert results == {
        "a": ids[0],
        "c": ids[2],
        "first without a hint": ids[1],
        "second without a hint": ids[3],
    }
    assert sent["messages"][2]["name"] == "c"


def test_reused_ids_match_within_their_round() -> None:
    turns: list[dict[str, Any]] = [
        {"role": "assistant", "tool_calls": [call("f", "call_0"), call("g", "call_1")]},
        {"role": "tool", "content": "g", "tool_call_id": "call_1"},
        {"role": "tool", "content": "f", "tool_call_id": "call_0"},
    ]
    sent = upstream(*turns, *turns)["messages"]
    assert [message.get("tool_call_id") for message in sent] == [None, "call_1", "call_0"] * 2


def test_a_result_without_a_call_keeps_its_id_or_gets_a_new_one() -> None:
    sent = upstream({"role": "tool", "content": "x", "tool_call_id": "lost"}, {"role": "tool", "content": "y"})
    assert sent["messages"][0]["tool_call_id"] == "lost"
    assert sent["messages"][1]["tool_call_id"].startswith("call_")


NAMES = st.sampled_from(["f", "g", ""])
IDS = st.sampled_from(["", "x", "y", "call_00000000"])
CALLS = st.lists(st.tuples(NAMES, IDS), min_size=1, max_size=4)
MESSAGES = st.lists(
    st.one_of(
        st.builds(lambda calls: {"role": "assistant", "tool_calls": [call(*pair) for pair in calls]}, CALLS),
        st.builds(lambda name, id: {"role": "tool", "content": "r", "tool_name": name, "tool_call_id": id}, NAMES, IDS),
        st.just({"role": "user", "content": "u"}),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.rule(77, 78)
@pytest.mark.trap(2)
@given(MESSAGES)
def test_every_call_is_matched_at_most_once(messages: list[dict[str, Any]]) -> None:
    decoded = decode_chat(json.dumps({"model": "x", "messages": messages}).encode()).messages or []
    sent = translate(decoded)
    assert [message.role for message in sent] == [message.role for message in decoded]
    open_calls: Counter[str] = Counter()
    for is_tool, group in itertools.groupby(zip(decoded, sent, strict=True), lambda pair: pair[1].role == "tool"):
        pairs = list(group)
        if is_tool:
            answered = Counter(after.tool_call_id or "" for _, after in pairs)
            assert all(isinstance(after.tool_call_id, str) for _, after in pairs)
            assert "" not in answered
            # as many results as possible have an open call, each call once
            assert (answered & open_calls).total() == min(len(pairs), open_calls.total())
            open_calls -= answered & open_calls
        for before, after in pairs:
            ids = [tool_call.id for tool_call in after.tool_calls or ()]
            assert len(set(ids)) == len(ids) == len(before.tool_calls or ())
            open_calls.update(ids)


@given(MESSAGES)
def test_a_result_with_the_id_of_an_open_call_matches_it(messages: list[dict[str, Any]]) -> None:
    unique = [
        message | {"tool_calls": [entry | {"id": f"{i}-{j}"} for j, entry in enumerate(message["tool_calls"])]}
        if message["role"] == "assistant"
        else message
        for i, message in enumerate(messages)
    ]
    answers = [
        {"role": "tool", "content": entry["id"], "tool_call_id": entry["id"]}
        for message in unique
        for entry in message.get("tool_calls", ())
    ]
    calls = [message for message in unique if message["role"] == "assistant"]
    hintless = [{"role": "tool", "content": "hintless"}]
    body = json.dumps({"model": "x", "messages": calls + hintless + answers[::-1]}).encode()
    for message in translate(decode_chat(body).messages or [])[len(calls) + 1 :]:
        assert message.tool_call_id == message.content


def test_messages_without_tools_are_not_matched() -> None:
    assert translate([ChatMessage(role="user", content="hi")])[0].tool_call_id is None


def test_matching_thousands_of_open_calls_takes_linear_time() -> None:
    many = 20000
    calls = [CalledTool(CalledToolFunction(f"f{number}"), id=f"c{number}") for number in range(many)]
    results = [ChatMessage("tool", "r", tool_call_id="none", tool_name="none") for _ in range(many)]
    began = time.process_time()
    sent = translate([ChatMessage("assistant", tool_calls=calls), *results])
    assert [message.tool_call_id for message in sent[1:]] == [f"c{number}" for number in range(many)]
    assert time.process_time() - began < 5
