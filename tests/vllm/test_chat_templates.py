"""Chats through a live router to real vLLMs that end in an assistant message, or that a chat template refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.fleet.attached import OneSystem
from tests.support.vllm.servers import ANSWER_TIMEOUT, VllmServer

USER = {"role": "user", "content": "hello"}
BEGUN = {"role": "assistant", "content": "Hello! I am a"}
REST = " tiny llama 🦙 and I count: one two three four five six seven eight nine ten."
SYSTEM = {"role": "system", "content": "be brief"}
CALL = {"id": "c1", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
TOOL_TURNS = [
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "22", "tool_call_id": "c1"},
]


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneSystem]:
    with OneSystem(lambda: tmp_path_factory.mktemp("system")) as one_system:
        yield one_system


class Chats:
    """A router in front of one server."""

    def __init__(self, url: str, server: VllmServer) -> None:
        self._url = url
        self._model = server.model

    def ask(self, path: str = "/api/chat", **fields: Any) -> dict[str, Any]:
        """Return the answer, or a stream's joined message, with status 200."""
        body = {"model": self._model, "stream": False, "options": {"temperature": 0, "num_predict": 64}, **fields}
        response = httpx.post(self._url + path, json=body, trust_env=False, timeout=ANSWER_TIMEOUT)
        assert response.status_code == 200, response.text
        lines = [json.loads(line) for line in response.text.splitlines()]
        if not body["stream"]:
            return dict(lines[0])
        names = ("content", "thinking")
        return {"message": {name: "".join(line["message"].get(name, "") for line in lines) for name in names}}

    def rendered(self, **fields: Any) -> str:
        return str(self.ask(_debug_render_only=True, **fields)["_debug_info"]["rendered_template"])


@pytest.fixture
def thinker(systems: OneSystem, tiny_qwen3_vllm: VllmServer) -> Chats:
    return Chats(systems.url(tiny_qwen3_vllm), tiny_qwen3_vllm)


@pytest.fixture
def no_system(systems: OneSystem, no_system_vllm: VllmServer) -> Chats:
    return Chats(systems.url(no_system_vllm), no_system_vllm)


@pytest.fixture
def system_first(systems: OneSystem, system_first_vllm: VllmServer) -> Chats:
    return Chats(systems.url(system_first_vllm), system_first_vllm)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("think", [None, True, False])
def test_a_thinking_model_continues_its_text_without_thinking(thinker: Chats, think: bool | None, stream: bool) -> None:
    message = thinker.ask(messages=[USER, BEGUN], think=think, stream=stream)["message"]
    assert (message["content"], message.get("thinking", "")) == (REST, "")


def test_the_rendered_prompt_ends_in_the_text_that_is_continued(thinker: Chats) -> None:
    opening = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert thinker.rendered(messages=[USER, BEGUN]) == opening + "Hello! I am a"
    assert thinker.rendered(messages=[USER, {**BEGUN, "content": "Hello! "}]) == opening + "Hello! "
    assert thinker.rendered(messages=[USER, {**BEGUN, "content": ""}]) == opening


def test_a_chat_with_tools_and_a_shortened_one_are_continued(thinker: Chats) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    assert thinker.ask(messages=[USER, BEGUN], tools=[tool])["message"]["content"] == REST
    long = [*[USER, {"role": "assistant", "content": "one two three four " * 10}] * 40, USER, BEGUN]
    answer = thinker.ask(messages=long)
    assert answer["message"]["content"]
    assert "thinking" not in answer["message"]
    assert 500 < answer["prompt_eval_count"] <= 1024 - 64


def test_a_virtual_models_messages_precede_the_text_that_is_continued(thinker: Chats) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello!"}]
    created = thinker.ask("/api/create", model="mine", **{"from": "tiny-qwen3"}, messages=messages)
    assert created == {"status": "success"}
    text = thinker.rendered(model="mine", messages=[USER, BEGUN])
    assert text.startswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>")
    assert text.endswith("assistant\nHello! I am a")
    assert thinker.ask(model="mine", messages=[USER, BEGUN])["message"]["content"] == REST


CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "system": [SYSTEM, USER],
    "system later": [USER, {"role": "assistant", "content": "Hello!"}, SYSTEM, USER],
    "two systems": [SYSTEM, {"role": "system", "content": "be kind"}, USER],
    "two users": [USER, {"role": "user", "content": "you"}],
    "assistant first": [BEGUN, USER],
    "only a system": [SYSTEM],
    "tools": [SYSTEM, USER, *TOOL_TURNS, {"role": "assistant", "content": "22"}, USER, USER],
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_what_a_template_without_a_system_role_refuses_is_answered(no_system: Chats, name: str, stream: bool) -> None:
    messages = CONVERSATIONS[name]
    assert no_system.ask(messages=messages, stream=stream)["message"]["content"]
    text = no_system.rendered(messages=messages)
    assert "<|im_start|>system" not in text
    for message in messages:
        assert message["content"] in text
    assert ("<tool_call>c1get_weather</tool_call>" in text) == (name == "tools")


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_what_a_template_with_one_system_message_refuses_is_answered(system_first: Chats, name: str) -> None:
    messages = CONVERSATIONS[name]
    assert system_first.ask(messages=messages)["message"]["content"]
    text = system_first.rendered(messages=messages)
    assert text.startswith("<|im_start|>system") == (SYSTEM in messages)
    for message in messages:
        assert message["content"] in text


def test_the_system_text_of_generate_precedes_the_prompt(no_system: Chats) -> None:
    answer = no_system.ask("/api/generate", system="be brief", prompt="hello")
    assert answer["response"]
    assert no_system.ask("/api/generate", system="be kind", prompt="bye", context=answer["context"])["response"]


def test_a_trimmed_text_is_continued_and_joined_with_the_one_before(no_system: Chats) -> None:
    first = {"role": "assistant", "content": "Well."}
    assert no_system.rendered(messages=[USER, USER, first, {**BEGUN, "content": "Hello! I am a "}]) == (
        "<|im_start|>user\nhello\n\nhello<|im_end|>\n<|im_start|>assistant\nWell.\n\nHello! I am a"
    )
    assert no_system.ask(messages=[USER, {**BEGUN, "content": "Hello! I am a "}])["message"]["content"] == REST


def test_a_text_that_the_template_changes_is_closed_and_a_new_turn_follows(system_first: Chats) -> None:
    messages = [USER, {**BEGUN, "content": "a secret word"}]
    assert system_first.rendered(messages=messages).endswith("a  word<|im_end|>\n<|im_start|>assistant\n")
    assert system_first.ask(messages=messages)["message"]["content"]


def test_a_conversation_that_no_form_helps_gets_the_templates_words(no_system: Chats) -> None:
    with pytest.raises(AssertionError, match="Conversation roles must alternate"):
        no_system.ask(messages=[{"role": "critic", "content": "hm"}, USER])
