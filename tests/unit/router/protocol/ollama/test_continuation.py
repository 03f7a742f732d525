"""Conversations whose last message is the assistant's."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.support.protocol import CLOCK, MODEL, THINKER, TIMING, delta, objects, outgoing, run, usage
from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.router.errors import AttemptFailed, Refused
from vllama_pool.router.protocol.ollama import chat
from vllama_pool.router.protocol.ollama.model_plan import ModelPlan
from vllama_pool.router.protocol.ollama.requests import decode_chat
from vllama_pool.router.protocol.operation import PreflightRequest, UpstreamRequest
from vllama_pool.router.protocol.vllm.errors import CONTEXT_EXCEEDED
from vllama_pool.workers.registry.record import ModelInfo

HI = {"role": "user", "content": "hi"}
ONCE = {"role": "assistant", "content": "Once upon"}
NOTHING = {"role": "assistant", "content": ""}
THOUGHT = {"role": "assistant", "thinking": "They greet"}
CALL = {"role": "assistant", "content": "x", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
PNG = "iVBORw0KGgoAAAAN"
TAGGED = msgspec.structs.replace(THINKER, template=THINKER.template + "<think>")
OPEN = {"add_generation_prompt": False, "continue_final_message": True}
NOT_FOUND = Refused(
    "continue_final_message is set but the final message does not appear in the chat after applying the chat template!",
    status=400,
)


def step(*messages: dict[str, Any], info: ModelInfo = MODEL, defaults: Defaults = NO_DEFAULTS, **fields: Any) -> Any:
    request = decode_chat(json.dumps({"model": "m", "messages": messages} | fields).encode())
    return chat.prepare(request, ModelPlan(info, defaults), CLOCK)


def sent(*messages: dict[str, Any], **fields: Any) -> Any:
    return json.loads(outgoing(step(*messages, **fields)).body)


def after(*refusals: AttemptFailed, messages: list[dict[str, Any]], info: ModelInfo = MODEL) -> Any:
    request = decode_chat(json.dumps({"model": "m", "messages": messages}).encode())
    return chat.adapt(request, ModelPlan(info, NO_DEFAULTS), CLOCK, *refusals)


def flags(body: dict[str, Any]) -> dict[str, Any]:
    return {name: body[name] for name in OPEN if name in body}


@pytest.mark.parametrize(
    "last",
    [
        ONCE,
        {**ONCE, "role": "Assistant"},
        {**ONCE, "content": "Once upon "},
        {**ONCE, "tool_calls": []},
        {**ONCE, "thinking": "a tale"},
        {**ONCE, "images": [PNG]},
    ],
    ids=["plain", "any case", "trailing space", "no calls", "thinking", "images"],
)
def test_an_assistant_message_at_the_end_is_left_open(last: dict[str, Any]) -> None:
    body = sent(HI, last)
    assert flags(body) == OPEN
    content = body["messages"][-1]["content"]
    assert (content if isinstance(content, str) else content[-1]["text"]).rstrip(" ") == "Once upon"


@pytest.mark.parametrize(
    "last",
    [HI, CALL, {"role": "tool", "content": "4"}, {"role": "system", "content": "s"}, {"role": "critic", "content": ""}],
    ids=["user", "calls", "result", "system", "unknown role"],
)
def test_any_other_last_message_is_followed_by_a_new_turn(last: dict[str, Any]) -> None:
    body = sent(HI, ONCE, HI, last)
    assert flags(body) == {}
    assert body["messages"][-1]["role"] == last["role"]


@pytest.mark.parametrize("last", [NOTHING, {"role": "assistant", "content": None}, THOUGHT])
def test_an_empty_assistant_message_at_the_end_is_a_new_turn(last: dict[str, Any]) -> None:
    for info in (MODEL, THINKER):
        body = sent(HI, last, info=info)
        assert flags(body) == {}
        assert body["messages"] == [HI]


def test_an_empty_assistant_message_that_is_the_only_one_is_left_open() -> None:
    body = sent(NOTHING)
    assert (flags(body), body["messages"]) == (OPEN, [NOTHING])


def test_of_several_assistant_messages_the_last_is_left_open() -> None:
    body = sent(HI, ONCE, {**ONCE, "content": "a time"})
    assert flags(body) == OPEN
    assert [message["content"] for message in body["messages"]] == ["hi", "Once upon", "a time"]


def test_the_messages_of_a_virtual_model_are_not_continued_instead_of_the_requests() -> None:
    defaults = Defaults(messages=(HI, ONCE))
    system = {"role": "system", "content": "be brief"}
    body = sent(system, defaults=defaults)
    assert (flags(body), body["messages"]) == ({}, [system, HI, ONCE])
    assert flags(sent(ONCE, defaults=defaults)) == OPEN


def test_a_continued_text_is_parsed_without_thinking() -> None:
    """vLLM's parsers would take the continuation for thinking."""
    off = {"enable_thinking": False, "thinking": False}
    for think in (None, True, False, "high"):
        body = sent(HI, ONCE, info=THINKER, think=think)
        assert (body["chat_template_kwargs"], "reasoning_effort" in body) == (off, False)
    assert sent(HI, info=THINKER)["chat_template_kwargs"] == {"enable_thinking": True, "thinking": True}
    assert "chat_template_kwargs" not in sent(HI, ONCE)


def test_continued_thinking_is_sent_behind_its_tag() -> None:
    body = sent(HI, THOUGHT, info=TAGGED)
    assert flags(body) == OPEN
    assert body["messages"][-1] == {"role": "assistant", "content": "<think>\nThey greet"}
    assert body["chat_template_kwargs"]["enable_thinking"] is True
    assert sent(HI, THOUGHT, info=TAGGED, think=False)["messages"] == [HI]


def answer(request: UpstreamRequest, *messages: dict[str, Any], stream: bool, reasoning: str = "reasoning") -> Any:
    decoded = decode_chat(json.dumps({"model": "m", "messages": messages, "stream": stream}).encode())
    translator = (request.translator or chat.translator)(decoded, TIMING, CLOCK)
    data = delta(**{reasoning: " a"}) + delta(**{reasoning: " time"}) + delta("stop") + usage()
    lines = objects(run(translator, data))
    return "".join(line["message"]["content"] for line in lines), [line["message"].get("thinking") for line in lines]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_what_a_parser_takes_for_thinking_in_a_continued_text_is_content(stream: bool, field: str) -> None:
    """Some parsers always begin in the thinking, such as DeepSeek-R1's."""
    content, thinking = answer(step(HI, ONCE, info=THINKER), HI, ONCE, stream=stream, reasoning=field)
    assert (content, set(thinking)) == (" a time", {None})


def test_continued_thinking_and_that_of_gpt_oss_stays_thinking() -> None:
    gpt_oss = msgspec.structs.replace(THINKER, architecture="gpt_oss")
    for request, messages in ((step(HI, THOUGHT, info=TAGGED), [HI, THOUGHT]), (step(HI, ONCE, info=gpt_oss), [ONCE])):
        content, thinking = answer(request, *messages, stream=False)
        assert (content, thinking) == ("", ["a time"])


@pytest.mark.parametrize("text", [NOT_FOUND.text, "substring not found"])
def test_a_message_that_the_template_changes_is_closed_and_a_new_turn_follows(text: str) -> None:
    refusal = Refused(text, status=400)
    request = after(refusal, messages=[HI, ONCE], info=THINKER)
    body = json.loads(request.body)
    assert (flags(body), body["messages"]) == ({}, [HI, ONCE])
    assert body["chat_template_kwargs"] == {"enable_thinking": True, "thinking": True}
    assert answer(request, HI, ONCE, stream=False) == ("", ["a time"])
    assert json.loads(after(refusal, messages=[HI, THOUGHT], info=TAGGED).body)["messages"] == [HI]


def test_a_refusal_of_the_closed_message_is_reported_in_its_own_words() -> None:
    second = Refused("no assistant message at the end", status=400)
    with pytest.raises(Refused) as caught:
        after(NOT_FOUND, second, messages=[HI, ONCE])
    assert caught.value is second


def test_a_long_conversation_is_counted_and_shortened_with_its_end_open() -> None:
    too_long = Refused(CONTEXT_EXCEEDED, status=400)
    counted = after(too_long, messages=[HI, ONCE, HI, ONCE], info=THINKER)
    for _ in range(5):
        if not isinstance(counted, PreflightRequest):
            break
        body = json.loads(counted.body)
        assert (counted.path, flags(body), body["messages"][-1]) == ("/tokenize", OPEN, ONCE)
        counted = counted.then(b'{"count": 100, "max_model_len": 1024}')
    assert flags(json.loads(outgoing(counted).body)) == OPEN
    assert answer(counted, HI, ONCE, stream=False)[0] == " a time"


def test_the_rendered_prompt_has_an_open_end() -> None:
    preflight = step(HI, ONCE, _debug_render_only=True)
    assert (preflight.path, flags(json.loads(preflight.body))) == ("/tokenize", OPEN)
