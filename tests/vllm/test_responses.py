"""/v1/responses through a live router to real vLLMs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.support.fleet.attached import OneSystem
from tests.support.vllm.servers import ANSWER_TIMEOUT, VllmServer

PATH = "/v1/responses"
QUESTION = "what is the weather in Paris?"
FUNCTION = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"type": "string"}}},
}
SPACE = {"type": "namespace", "name": "ns", "description": "d", "tools": [FUNCTION]}
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}
PATCH = {"type": "custom", "name": "patch", "description": "d", "format": GRAMMAR}
SYSTEM = {"role": "developer", "content": "be short"}
Post = Callable[..., httpx.Response]
"""(server, **fields) -> the response."""


@pytest.fixture(scope="module")
def post(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Post]:
    with OneSystem(lambda: tmp_path_factory.mktemp("system")) as systems:

        def send(server: VllmServer, **fields: Any) -> httpx.Response:
            body = {"model": server.model, "input": "hello", "temperature": 0, "max_output_tokens": 200_000, **fields}
            return httpx.post(f"{systems.url(server)}{PATH}", json=body, trust_env=False, timeout=ANSWER_TIMEOUT)

        yield send


def events(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    blocks = response.text.removesuffix("\n\n").split("\n\n")
    found: list[dict[str, Any]] = [json.loads(block.partition("\ndata: ")[2]) for block in blocks]
    assert [each["sequence_number"] for each in found] == list(range(len(found)))
    return found


def output(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    items: list[dict[str, Any]] = response.json()["output"]
    return items


def types(response: httpx.Response) -> list[str]:
    return [item["type"] for item in output(response)]


def test_a_stream_ends_with_the_same_output_as_a_whole_answer(post: Post, tiny_qwen3_vllm: VllmServer) -> None:
    whole = output(post(tiny_qwen3_vllm))
    last = events(post(tiny_qwen3_vllm, stream=True))[-1]
    assert last["type"] == "response.completed"
    assert [item["type"] for item in whole] == ["reasoning", "message"]
    assert [item["content"][0]["text"] for item in whole] == [
        item["content"][0]["text"] for item in last["response"]["output"]
    ]


def test_thinking_is_switched_off_by_the_effort(post: Post, tiny_qwen3_vllm: VllmServer) -> None:
    assert types(post(tiny_qwen3_vllm, reasoning={"effort": "none"})) == ["message"]
    assert types(post(tiny_qwen3_vllm, reasoning={"effort": "ultra", "summary": "auto"})) == ["reasoning", "message"]


@pytest.mark.parametrize(
    ("tools", "choice", "namespace"),
    [
        ([FUNCTION], "auto", None),
        ([FUNCTION, {"type": "web_search"}, PATCH], "auto", None),
        ([SPACE], {"type": "function", "name": "get_weather"}, "ns"),
        (
            [FUNCTION, {**FUNCTION, "name": "other"}],
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_weather"}]},
            None,
        ),
    ],
    ids=["one", "several kinds", "in a namespace", "allowed"],
)
def test_a_call_and_its_result_make_a_round_trip(
    post: Post, tiny_qwen3_vllm: VllmServer, tools: list[Any], choice: Any, namespace: str | None
) -> None:
    given = [SYSTEM, {"role": "user", "content": QUESTION}]
    fields = {"tools": tools, "include": ["reasoning.encrypted_content"]}
    first = post(tiny_qwen3_vllm, input=given, tool_choice=choice, max_output_tokens=200, stream=True, **fields)
    answer = events(first)[-1]["response"]["output"]
    call = answer[-1]
    assert (call["type"], call["name"], call["namespace"]) == ("function_call", "get_weather", namespace)
    assert answer[0]["encrypted_content"].strip() == "The user said something. I greet."
    call = {**call, "arguments": '{"city": "Paris"}'}
    result = {
        "type": "function_call_output",
        "call_id": call["call_id"],
        "output": [{"type": "input_text", "text": "22"}],
    }
    second = post(tiny_qwen3_vllm, input=[*given, *answer[:-1], call, result], max_output_tokens=20, **fields)
    assert second.status_code == 200, second.text


def test_a_custom_tools_call_makes_a_round_trip(post: Post, tiny_qwen3_vllm: VllmServer) -> None:
    choice = {"type": "custom", "name": "patch"}
    given = [{"role": "user", "content": QUESTION}]
    answer = output(post(tiny_qwen3_vllm, input=given, tools=[PATCH], tool_choice=choice, max_output_tokens=100))
    call = answer[-1]
    assert (call["type"], call["name"]) == ("custom_tool_call", "patch")
    result = {"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "done"}
    second = post(tiny_qwen3_vllm, input=[*given, *answer, result], tools=[PATCH], max_output_tokens=20)
    assert second.status_code == 200, second.text


HISTORY = [
    SYSTEM,
    {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
    {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    {"role": "system", "content": "be kind"},
    {"type": "local_shell_call", "call_id": "1", "action": {"type": "exec", "command": ["ls"]}},
    {"type": "local_shell_call_output", "id": "1", "output": "x"},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "why"}], "encrypted_content": "gAAAAABox"},
    {"role": "user", "content": "and now?"},
]


def check_history(post: Post, server: VllmServer) -> None:
    for stream in (True, False):
        response = post(server, input=HISTORY, instructions="be brief", max_output_tokens=5, stream=stream)
        assert response.status_code == 200, response.text


def test_a_template_with_tools_takes_any_history(post: Post, tiny_qwen3_vllm: VllmServer) -> None:
    check_history(post, tiny_qwen3_vllm)


def test_a_template_without_tools_takes_any_history(post: Post, smollm2_vllm: VllmServer) -> None:
    check_history(post, smollm2_vllm)


def test_a_template_without_a_system_role_takes_any_history(post: Post, no_system_vllm: VllmServer) -> None:
    check_history(post, no_system_vllm)


def test_a_template_with_one_system_message_takes_any_history(post: Post, system_first_vllm: VllmServer) -> None:
    check_history(post, system_first_vllm)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "fields",
    [
        {"include": ["message.output_text.logprobs"], "top_logprobs": 99},
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": 5}}}},
        {"structured_outputs": {"regex": "("}},
        {"logit_bias": {"99999999": 1}},
        {"stop_token_ids": [99_999_999]},
        {"temperature": -1},
        {"input": "hello " * 3000},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_vllm_refuses_is_a_400_also_in_a_stream(
    post: Post, tiny_qwen3_vllm: VllmServer, fields: dict[str, Any], stream: bool
) -> None:
    response = post(tiny_qwen3_vllm, stream=stream, **fields)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error"), response.text
