from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.support.protocol import CLOCK, THINKER, outgoing
from vllama_pool.config.routing.defaults import NO_DEFAULTS
from vllama_pool.router.protocol.ollama import chat
from vllama_pool.router.protocol.ollama.messages import translate
from vllama_pool.router.protocol.ollama.model_plan import ModelPlan
from vllama_pool.router.protocol.ollama.requests import ChatMessage, decode_chat

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(60)).decode()


def upstream(*messages: dict[str, Any], **fields: Any) -> Any:
    """Return the body of the request to vLLM."""
    request = decode_chat(json.dumps({"model": "x", "messages": messages} | fields).encode())
    return json.loads(outgoing(chat.prepare(request, ModelPlan(THINKER, NO_DEFAULTS), CLOCK)).body)


def call(name: str, id: str | None = None, **arguments: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}} | ({"id": id} if id else {})


@pytest.mark.rule(72)
def test_roles_are_lower_cased_and_plain_messages_stay_plain() -> None:
    sent = upstream({"role": "System", "content": "be brief"}, {"role": "assistant"}, {"role": "USER", "content": "hi"})
    assert sent["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "hi"},
    ]


@pytest.mark.rule(72, 73)
def test_unknown_roles_pass_and_null_content_is_empty() -> None:
    sent = upstream({"role": "assistant", "content": None}, {"role": "Critic", "content": "hm"})
    assert sent["messages"] == [{"role": "assistant", "content": ""}, {"role": "critic", "content": "hm"}]


@pytest.mark.rule(72)
def test_a_developer_message_is_never_dropped_by_the_template() -> None:
    messages = [ChatMessage("Developer", "be brief"), ChatMessage("user", "hi"), ChatMessage("developer", "now")]
    for template in ("", "{% if message.role == 'developer' %}"):
        assert [message.role for message in translate(messages, template)] == [
            "developer",
            "user",
            "developer",
        ]
    result = translate(messages, "{% if message.role == 'system' %}")
    assert [(message.role, message.content) for message in result[:2]] == [("system", "be brief"), ("user", "hi")]
    assert upstream({"role": "developer", "content": "x"})["messages"][0]["role"] == "system"


@pytest.mark.rule(74)
def test_earlier_thinking_is_sent_as_reasoning() -> None:
    sent = upstream({"role": "assistant", "content": "4", "thinking": "2+2"})
    assert sent["messages"] == [{"role": "assistant", "content": "4", "reasoning": "2+2"}]


@pytest.mark.rule(75)
def test_images_become_data_urls_before_the_text() -> None:
    sent = upstream({"role": "user", "content": "what is it?", "images": [PNG]})
    assert sent["messages"][0]["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "text", "text": "what is it?"},
    ]


def test_audio_among_the_images_becomes_input_audio() -> None:
    wave = base64.b64encode(b"RIFF\0\0\0\0WAVE" + bytes(20)).decode()
    sent = upstream({"role": "user", "images": [wave]})
    assert sent["messages"][0]["content"] == [
        {"type": "input_audio", "input_audio": {"data": wave, "format": "wav"}},
    ]


@pytest.mark.rule(74, 75, 76)
def test_no_field_of_a_message_is_dropped_for_another() -> None:
    [sent] = upstream(
        {"role": "assistant", "content": "4", "thinking": "2+2", "images": [PNG], "tool_calls": [call("f", "c1")]}
    )["messages"]
    assert [part["type"] for part in sent["content"]] == ["image_url", "text"]
    assert (sent["reasoning"], sent["tool_calls"][0]["id"]) == ("2+2", "c1")
    [sent] = upstream({"role": "assistant", "thinking": "2+2", "images": [PNG]})["messages"]
    assert ([part["type"] for part in sent["content"]], sent["reasoning"]) == (["image_url"], "2+2")


@pytest.mark.rule(74, 75, 77)
def test_a_tool_result_keeps_its_image_and_thinking() -> None:
    result = {"role": "tool", "content": "22", "tool_call_id": "c1", "tool_name": "f"}
    turns = [{"role": "assistant", "tool_calls": [call("f", "c1")]}, {**result, "images": [PNG], "thinking": "hm"}]
    sent = upstream(*turns)["messages"][1]
    assert [part["type"] for part in sent["content"]] == ["image_url", "text"]
    assert (sent["tool_call_id"], sent["name"], sent["reasoning"]) == ("c1", "f", "hm")


@pytest.mark.rule(76)
@pytest.mark.trap(1)
def test_arguments_are_sent_as_text_in_the_clients_order() -> None:
    sent = upstream({"role": "assistant", "tool_calls": [call("f", z=1, a={"x": [1.50, None]})]})
    function = sent["messages"][0]["tool_calls"][0]
    assert function["type"] == "function"
    assert json.loads(function["function"]["arguments"]) == {"z": 1, "a": {"x": [1.5, None]}}
    assert function["function"]["arguments"].startswith('{"z"')
