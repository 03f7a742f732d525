"""/v1/messages through a live router to real vLLMs: what is relaxed for them, and what their templates refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.support.fleet.attached import OneSystem
from tests.support.vllm.servers import ANSWER_TIMEOUT, VllmServer

PATH = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
HELLO = [{"role": "user", "content": "hello"}]
TOOL = {
    "name": "get_weather",
    "description": "the weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Paris"}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "22"}]}
Post = Callable[..., httpx.Response]
"""(server, path, **fields) -> the response."""


@pytest.fixture(scope="module")
def post(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Post]:
    with OneSystem(lambda: tmp_path_factory.mktemp("system")) as systems:

        def send(server: VllmServer, path: str = PATH, **fields: Any) -> httpx.Response:
            body = {"model": server.model, "max_tokens": 32_000, "temperature": 0, "messages": HELLO, **fields}
            return httpx.post(
                f"{systems.url(server)}{path}?beta=true", json=body, trust_env=False, timeout=ANSWER_TIMEOUT
            )

        yield send


def kinds(response: httpx.Response) -> list[str]:
    """Return the types of an answer's blocks."""
    assert response.status_code == 200, response.text
    return [block["type"] for block in response.json()["content"]]


@pytest.mark.rule(121)
@pytest.mark.parametrize("budget", [None, 0, 5, 600, 31_999])
def test_any_budget_of_thinking_is_accepted(post: Post, tiny_qwen3_vllm: VllmServer, budget: int | None) -> None:
    thinking = {"type": "enabled", "budget_tokens": budget}
    assert kinds(post(tiny_qwen3_vllm, thinking=thinking)) == ["thinking", "text"]
    assert post(tiny_qwen3_vllm, COUNT, thinking=thinking).status_code == 200


@pytest.mark.rule(121)
@pytest.mark.parametrize("effort", ["low", "xhigh", "max", "none", "ultra"])
@pytest.mark.parametrize("kind", ["adaptive", "auto", "disabled"])
def test_any_type_of_thinking_and_any_effort_are_accepted(
    post: Post, tiny_qwen3_vllm: VllmServer, kind: str, effort: str
) -> None:
    answer = post(tiny_qwen3_vllm, thinking={"type": kind}, output_config={"effort": effort})
    assert kinds(answer) == (["text"] if kind == "disabled" else ["thinking", "text"])


def test_a_count_is_the_number_of_the_answers_prompt_tokens(post: Post, tiny_qwen3_vllm: VllmServer) -> None:
    turns = [*HELLO, {"role": "assistant", "content": [CALL]}, {"role": "user", "content": [RESULT]}]
    for fields in (
        {},
        {"tools": [TOOL], "system": "be brief"},
        {"thinking": {"type": "disabled"}},
        {"messages": turns},
    ):
        usage = post(tiny_qwen3_vllm, max_tokens=5, **fields).json()["usage"]
        cached = usage.get("cache_read_input_tokens", 0) + usage.get("cache_creation_input_tokens", 0)
        counted = post(tiny_qwen3_vllm, COUNT, **fields).json()["input_tokens"]
        assert counted == usage["input_tokens"] + cached


@pytest.mark.rule(125)
def test_built_in_tools_do_not_stop_a_request(post: Post, tiny_qwen3_vllm: VllmServer) -> None:
    built_in = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
    choice = {"type": "tool", "name": "web_search"}
    assert kinds(post(tiny_qwen3_vllm, tools=[built_in], tool_choice=choice)) == ["thinking", "text"]
    answer = post(tiny_qwen3_vllm, tools=[built_in, TOOL], tool_choice={"type": "any"}, thinking={"type": "disabled"})
    assert kinds(answer) == ["tool_use"]


def test_a_prompt_that_is_too_long_has_anthropics_text(post: Post, tiny_qwen3_vllm: VllmServer) -> None:
    long = [{"role": "user", "content": "hello " * 2000}]
    for path in (PATH, COUNT):
        response = post(tiny_qwen3_vllm, path, messages=long)
        assert response.status_code == 400
        assert response.json()["error"]["message"] == "prompt is too long: 1025 tokens > 1024 maximum"


def test_a_refusal_within_a_stream_has_the_text_of_a_whole_answers(post: Post, tiny_qwen3_vllm: VllmServer) -> None:
    """vLLM compiles a grammar after it has begun a stream, and hides the text of an error there."""
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}, "required": ["a"]}
    format_ = {"format": {"type": "json_schema", "schema": schema}}
    answers = [post(tiny_qwen3_vllm, stream=stream, output_config=format_) for stream in (False, True)]
    whole, streamed = ((answer.status_code, answer.json()["error"]) for answer in answers)
    assert whole == streamed
    assert whole[0] == 400


GREETING = {"role": "assistant", "content": "Hi"}
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "system": {"system": [{"type": "text", "text": "be "}, {"type": "text", "text": "brief"}]},
    "system later": {"messages": [*HELLO, GREETING, {"role": "system", "content": "x"}, *HELLO]},
    "two users": {"messages": [*HELLO, *HELLO], "system": "be brief"},
    "assistant first": {"messages": [GREETING, *HELLO]},
}


@pytest.mark.parametrize("path", [PATH, COUNT])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_what_a_template_without_a_system_role_refuses_is_answered(
    post: Post, no_system_vllm: VllmServer, name: str, path: str
) -> None:
    response = post(no_system_vllm, path, **CONVERSATIONS[name])
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("path", [PATH, COUNT])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_what_a_template_with_one_system_message_refuses_is_answered(
    post: Post, system_first_vllm: VllmServer, name: str, path: str
) -> None:
    response = post(system_first_vllm, path, **CONVERSATIONS[name])
    assert response.status_code == 200, response.text
