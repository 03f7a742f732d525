"""Chat and generate through a live router to a real vLLM whose model thinks and calls tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.support.fleet.attached import OneSystem
from tests.support.vllm.servers import ANSWER_TIMEOUT, VllmServer
from tests.support.vllm.weather_tool import TOOL
from vllama_pool.router.protocol.vllm.errors import CONTEXT_EXCEEDED

CONTEXT = 1024
ANSWER = "Hello! I am a tiny llama 🦙 and I count:"
GREEDY: dict[str, Any] = {"options": {"temperature": 0}}
Post = Callable[..., httpx.Response]
Ask = Callable[..., dict[str, Any]]
"""(path, **fields) -> the answer, with status 200."""


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneSystem]:
    with OneSystem(lambda: tmp_path_factory.mktemp("system")) as one_system:
        yield one_system


@pytest.fixture
def post(systems: OneSystem, tiny_qwen3_vllm: VllmServer) -> Post:
    url = systems.url(tiny_qwen3_vllm)

    def send(path: str, **fields: Any) -> httpx.Response:
        body = {"model": tiny_qwen3_vllm.model, "stream": False, **GREEDY, **fields}
        return httpx.post(url + path, json=body, trust_env=False, timeout=ANSWER_TIMEOUT)

    return send


@pytest.fixture
def ask(post: Post) -> Ask:
    def post_and_decode(path: str, **fields: Any) -> dict[str, Any]:
        response = post(path, **fields)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    return post_and_decode


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def turns(count: int) -> list[dict[str, Any]]:
    messages = [{"role": "system", "content": "be brief"}]
    for _ in range(count):
        messages += [*user("what do you say to that then"), {"role": "assistant", "content": "one two three four"}]
    return messages + user("What is 2+2?")


@pytest.mark.rule(61, 95)
def test_think_turns_thinking_on_and_off(ask: Ask) -> None:
    for fields in ({}, {"think": True}, {"think": "low"}):
        message = ask("/api/chat", messages=user("What is 2+2?"), **fields)["message"]
        assert message["thinking"].startswith("The user said something.")
        assert message["content"].startswith(ANSWER)
    without = ask("/api/chat", messages=user("What is 2+2?"), think=False)["message"]
    assert "thinking" not in without
    assert without["content"].startswith(ANSWER)


@pytest.mark.rule(81, 83)
@pytest.mark.trap(7)
def test_a_tool_is_called_and_its_result_answered(ask: Ask) -> None:
    question = user("what is the weather in Paris?")
    answer = ask("/api/chat", messages=question, tools=[TOOL])
    assert answer["done_reason"] == "stop"
    [call] = answer["message"]["tool_calls"]
    assert call["function"] == {"index": 0, "name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}}
    result = {"role": "tool", "content": "22 degrees", "tool_name": "get_weather"}
    after = ask("/api/chat", messages=[*question, answer["message"], result], tools=[TOOL])
    assert after["message"]["content"]
    assert "tool_calls" not in after["message"]


@pytest.mark.rule(57, 98)
def test_a_schema_constrains_the_answer_but_not_the_thinking(ask: Ask) -> None:
    answer = ask("/api/chat", messages=user("What is 2+2?"), format={"type": "boolean"})
    assert json.loads(answer["message"]["content"]) in (True, False)
    assert answer["message"]["thinking"].startswith("The user said something.")


@pytest.mark.rule(54)
def test_a_context_continues_the_generated_conversation(ask: Ask, post: Post) -> None:
    first = ask("/api/generate", prompt="What is 2+2?")
    assert len(first["context"]) == first["prompt_eval_count"] + first["eval_count"] - 1
    second = ask("/api/generate", prompt="What is 2+2?", context=first["context"])
    assert second["prompt_eval_count"] == len(first["context"]) + first["prompt_eval_count"]
    assert second["context"][: len(first["context"])] == first["context"]
    assert second["response"]
    assert "think>" not in second["response"] + second.get("thinking", "")
    alone = ask("/api/generate", prompt="What is 2+2?", context=first["context"][:1])
    assert alone["thinking"].startswith("The user said something.")
    assert alone["response"].startswith(ANSWER)
    for stream in (True, False):
        refused = post("/api/generate", prompt="hi", context=[99_999_999], stream=stream)
        assert refused.status_code == 400
        assert "vocabulary" in refused.json()["error"]


@pytest.mark.rule(145)
def test_a_long_conversation_loses_its_oldest_turns(ask: Ask, post: Post) -> None:
    long = turns(200)
    answer = ask("/api/chat", messages=long, think=False)
    assert CONTEXT / 2 < answer["prompt_eval_count"] <= CONTEXT * 3 // 4
    assert answer["message"]["content"]
    alone = ask("/api/chat", messages=user("hello " * 3000), options={"num_predict": 20})
    assert alone["prompt_eval_count"] == CONTEXT - 20
    raw = ask("/api/generate", prompt="hello " * 60000, raw=True, options={"num_predict": 20})
    assert (raw["prompt_eval_count"], raw["done_reason"]) == (CONTEXT - 20, "length")
    for fields in ({"truncate": False}, {"shift": False}):
        refused = post("/api/chat", messages=long, stream=True, **fields)
        assert (refused.status_code, refused.json()) == (400, {"error": CONTEXT_EXCEEDED})


@pytest.mark.rule(66)
def test_debug_render_only_returns_the_prompt(ask: Ask) -> None:
    rendered = "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
    chat = ask("/api/chat", messages=user("What is 2+2?"), _debug_render_only=True)
    assert chat["_debug_info"] == {"rendered_template": rendered}
    generate = ask("/api/generate", prompt="What is 2+2?", think=False, _debug_render_only=True)
    assert generate["_debug_info"] == {"rendered_template": rendered + "<think>\n\n</think>\n\n"}


@pytest.mark.rule(64)
def test_logprobs_of_both_endpoints_have_the_same_shape(ask: Ask) -> None:
    fields = {"logprobs": True, "top_logprobs": 2, "options": {"temperature": 0, "num_predict": 4}, "think": False}
    chat = ask("/api/chat", messages=user("What is 2+2?"), **fields)["logprobs"]
    raw = ask("/api/generate", prompt="hello there", raw=True, **{**fields, "think": None})["logprobs"]
    for entries in (chat, raw):
        assert [len(entry["top_logprobs"]) for entry in entries] == [2] * 4
        for entry in entries:
            assert bytes(entry["bytes"]).decode() == entry["token"]


PNG = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAFklEQVR4nGM4ESBHEmIY1TCqYfhqAAB45TYQRqxXzQAAAABJRU5ErkJggg=="


@pytest.mark.rule(66, 145)
def test_image_tokens_count_and_are_dropped_with_their_turns(systems: OneSystem, tiny_vision_vllm: VllmServer) -> None:
    url = systems.url(tiny_vision_vllm)
    turn = [{"role": "user", "content": "what is this", "images": [PNG]}, {"role": "assistant", "content": "a square"}]

    def chat(messages: list[dict[str, Any]], **fields: Any) -> Any:
        body = {"model": tiny_vision_vllm.model, "stream": False, "messages": messages, **GREEDY, **fields}
        response = httpx.post(f"{url}/api/chat", json=body, trust_env=False, timeout=ANSWER_TIMEOUT)
        assert response.status_code == 200, response.text
        return response.json()

    rendered = chat([*turn, *turn[:1]], _debug_render_only=True)["_debug_info"]
    assert rendered["image_count"] == 2
    assert "what is this" in rendered["rendered_template"]
    answer = chat([*(turn * 60), *turn[:1]], options={"temperature": 0, "num_predict": 8})
    assert CONTEXT / 2 < answer["prompt_eval_count"] <= CONTEXT - 8
