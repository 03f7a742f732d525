"""/v1/messages and /v1/messages/count_tokens through a router with simulated workers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.fleet.live import Fleet, fleet
from tests.support.until import auntil
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
RATE: dict[str, Any] = {"tokens_per_second": 400, "ttft": 0.001, "answer_tokens": 12}
QUICK = Options(model="tiny:latest", max_model_len=500, **RATE)
AGENT = Options(model="agent", tool_calls=True, tool_parser=True, reasoning=True, **RATE)
NO_SYSTEM = Options(model="no-system", strict_template="no-system", **RATE)
SYSTEM_FIRST = Options(model="system-first", strict_template="system-first", **RATE)
SLOW = Options(model="slow", tokens_per_second=20, ttft=0.001, answer_tokens=600)
VECTORS = Options(model="vectors", embedding=True)
PLAIN = Options(model="plain", chat_template=False)
HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"name": "f", "input_schema": {"type": "object", "properties": {"a": {"type": "string"}}}}
WEB_SEARCH = {"type": "web_search_20250305", "name": "web_search"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def calm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    workers = {"quick": QUICK, "agent": AGENT, "slow": SLOW, "vectors": VECTORS, "plain": PLAIN}
    workers |= {"no-system": NO_SYSTEM, "system-first": SYSTEM_FIRST}
    async with fleet(tmp_path_factory.mktemp("state"), workers) as running:
        made = {"from": "tiny", "model": "pirate", "system": "be a pirate of the seven seas"}
        assert (await running.http.post("/api/create", json={**made, "stream": False})).status_code == 200
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def pair(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, {"a": QUICK, "b": QUICK}) as running:
        yield running


async def ask(running: Fleet, path: str = PATH, **fields: Any) -> httpx.Response:
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "x", "x-api-key": "none"}
    body = {"model": "TINY", "max_tokens": 32_000, "messages": HELLO, **fields}
    return await running.http.post(f"{path}?beta=true", json=body, headers=headers)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.removesuffix("\n\n").split("\n\n")
    found: list[dict[str, Any]] = [json.loads(block.partition("\ndata: ")[2]) for block in blocks]
    assert [block.partition("\n")[0] for block in blocks] == [f"event: {each['type']}" for each in found]
    return found


def deltas(found: list[dict[str, Any]], kind: str) -> str:
    return "".join(each["delta"].get(kind, "") for each in found if each["type"] == "content_block_delta")


def error(response: httpx.Response, status: int = 400, kind: str = "invalid_request_error") -> str:
    found = response.json()
    assert (response.status_code, found["type"], found["error"]["type"]) == (status, "error", kind)
    assert response.headers["request-id"] == found["request_id"]
    text: str = found["error"]["message"]
    return text


@pytest.mark.rule(34, 45, 123, 124)
async def test_a_stream_and_a_whole_answer_have_the_same_text_and_the_clients_name(calm: Fleet) -> None:
    found = events(await ask(calm, stream=True))
    assert found[0]["type"] == "message_start"
    assert found[0]["message"]["model"] == "TINY"
    assert [each["type"] for each in found[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    whole = (await ask(calm)).json()
    assert (whole["type"], whole["role"], whole["model"]) == ("message", "assistant", "TINY")
    assert deltas(found, "text") == whole["content"][0]["text"] != ""
    assert found[-2]["usage"] == whole["usage"]
    assert found[-2]["delta"]["stop_reason"] == whole["stop_reason"] == "end_turn"


async def test_the_log_has_the_tokens(calm: Fleet) -> None:
    for stream in (True, False):
        response = await ask(calm, stream=stream)
        record = await calm.record(response.headers["x-request-id"])
        assert (record["operation"], record["model"], record["outcome"]) == ("v1 messages", "tiny:latest", "complete")
        assert (record["prompt_tokens"] > 0, record["completion_tokens"]) == (True, 13)
        assert record["done_reason"] == "end_turn"


async def test_a_count_equals_the_prompts_tokens_and_generates_nothing(calm: Fleet) -> None:
    answer = (await ask(calm, model="agent", tools=[TOOL])).json()
    before = calm["agent"].tokens
    count = await ask(calm, COUNT, model="agent", tools=[TOOL])
    assert (count.status_code, count.json()["input_tokens"]) == (200, answer["usage"]["input_tokens"])
    assert calm["agent"].tokens == before
    record = await calm.record(count.headers["x-request-id"])
    assert (record["operation"], record["outcome"]) == ("v1 count tokens", "complete")
    assert "completion_tokens" not in record


async def test_a_virtual_models_system_text_applies(calm: Fleet) -> None:
    plain = (await ask(calm, COUNT)).json()["input_tokens"]
    pirate = (await ask(calm, COUNT, model="pirate")).json()["input_tokens"]
    own = (await ask(calm, COUNT, model="pirate", system="x")).json()["input_tokens"]
    assert pirate > own > plain


@pytest.mark.rule(125)
async def test_a_call_and_its_result_make_a_round_trip(calm: Fleet) -> None:
    choice = {"type": "any", "disable_parallel_tool_use": True}
    fields: dict[str, Any] = {"model": "agent", "tools": [WEB_SEARCH, TOOL], "thinking": {"type": "adaptive"}}
    found = events(await ask(calm, **fields, tool_choice=choice, stream=True))
    starts = [each["content_block"] for each in found if each["type"] == "content_block_start"]
    (call,) = (block for block in starts if block["type"] == "tool_use")
    assert call["name"] == "f"
    json.loads(deltas(found, "partial_json"))
    assert found[-2]["delta"]["stop_reason"] == "tool_use"
    turns = [
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, call]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call["id"], "content": "done"}]},
    ]
    second = await ask(calm, **fields, messages=[*HELLO, *turns])
    assert second.status_code == 200, second.text


@pytest.mark.parametrize("path", [PATH, COUNT])
@pytest.mark.parametrize("model", ["no-system", "system-first"])
async def test_a_strict_template_gets_the_conversation_in_a_form_that_it_takes(
    calm: Fleet, model: str, path: str
) -> None:
    late = [{"role": "assistant", "content": "hi"}, {"role": "system", "content": "be polite"}]
    response = await ask(calm, path, model=model, system="be short", messages=[*HELLO, *HELLO, *late, *HELLO])
    assert response.status_code == 200, response.text


@pytest.mark.rule(121)
async def test_thinking_is_relaxed_where_it_would_be_refused(calm: Fleet) -> None:
    for budget in (5, 5000, 100_000):
        thinking = {"type": "enabled", "budget_tokens": budget}
        assert (await ask(calm, thinking=thinking)).status_code == 200
        found = events(await ask(calm, model="agent", thinking=thinking, stream=True))
        assert deltas(found, "thinking")
    assert not deltas(events(await ask(calm, model="agent", thinking={"type": "disabled"}, stream=True)), "thinking")


async def test_a_prompt_that_is_too_long_is_refused_in_anthropics_words(calm: Fleet) -> None:
    messages = [{"role": "user", "content": "hello " * 600}]
    for fields in ({}, {"stream": True}):
        text = error(await ask(calm, messages=messages, **fields))
        assert text.startswith("prompt is too long: ")
        assert text.endswith(" tokens > 500 maximum")


@pytest.mark.rule(46, 167)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "fault",
    [
        *(faults.Refuse(), faults.Status(status=500), faults.Status(status=503), faults.Status(status=429)),
        *(faults.Cut(after_tokens=0), faults.Cut(after_tokens=0, reset=True)),
        *(faults.Error(after_tokens=0), faults.Error(after_tokens=0, status=503)),
        *(faults.Garbage(where="head"), faults.Empty(), faults.Dead(), faults.Draining()),
    ],
    ids=repr,
)
async def test_a_failure_before_the_first_block_is_retried(pair: Fleet, fault: faults.Fault, stream: bool) -> None:
    pair["a"].set_faults([fault])
    for _ in range(4):
        response = await ask(pair, stream=stream)
        assert response.status_code == 200, response.text
        last = events(response)[-2]["delta"] if stream else response.json()
        assert last["stop_reason"] == "end_turn"


@pytest.mark.rule(168)
@pytest.mark.parametrize(
    "fault", [faults.Cut(after_tokens=5), faults.Error(after_tokens=5), faults.Die(after_tokens=5)]
)
async def test_a_worker_that_fails_in_mid_stream_ends_it_with_an_error_event(pair: Fleet, fault: faults.Fault) -> None:
    for name in ("a", "b"):
        pair[name].set_faults([fault])
    found = events(await ask(pair, stream=True))
    assert found[0]["type"] == "message_start"
    assert deltas(found, "text")
    assert (found[-1]["type"], found[-1]["error"]["type"]) == ("error", "api_error")
    assert "Simulated" not in found[-1]["error"]["message"]
    assert "validation" not in found[-1]["error"]["message"]


async def test_a_refusal_within_a_stream_has_the_text_of_a_whole_answers(pair: Fleet) -> None:
    for name in ("a", "b"):
        pair[name].set_faults([faults.Error(after_tokens=0, status=400)])
    whole = error(await ask(pair))
    assert error(await ask(pair, stream=True)) == whole
    assert "the worker failed" not in whole


async def test_a_client_that_leaves_frees_its_worker(calm: Fleet) -> None:
    body = {"model": "slow", "max_tokens": 600, "messages": HELLO, "stream": True}
    async with calm.http.stream("POST", PATH, json=body) as response:
        await anext(response.aiter_bytes())
        assert calm["slow"].running == 1
    await auntil(lambda: calm["slow"].running == 0, 5, "the end of the generation")


RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "x"}
URL = {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/x"}}
BROKEN = {"type": "image", "source": {"type": "base64", "data": "?"}}


def user(*blocks: dict[str, Any], role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(blocks)}]}


@pytest.mark.rule(120, 122)
@pytest.mark.parametrize("path", [PATH, COUNT])
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"messages": []}, "messages is required"),
        (user(), "messages: at least one message must have content"),
        (user(role="robot"), "messages[0].role: 'robot' is not one of 'user', 'assistant', 'system'"),
        (user(RESULT), "the tool_result block for 't1' has no tool_use block with this id in an earlier message"),
        (user(IMAGE), "registry.ollama.ai/library/TINY:latest does not support vision"),
        (user(URL), "invalid image source type: url. Only base64 images are supported."),
        (user(BROKEN), "invalid base64 image data: illegal base64 data at input byte 0"),
        ({"tools": [TOOL]}, "registry.ollama.ai/library/TINY:latest does not support tools"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema is required"),
        ({"tool_choice": {"type": "any"}}, "tool_choice: may only be specified while providing tools"),
        ({"chat_template": "x"}, "'chat_template' is not accepted from clients: the model's own template is used"),
        ({"cache_salt": "x"}, "'cache_salt' is not accepted from clients: leave it out"),
        ({"model": "vectors"}, '"vectors" does not support chat'),
        ({"model": "plain"}, 'messages need a chat template and "plain" has none: start vLLM with --chat-template'),
    ],
)
async def test_bad_input_never_reaches_a_worker(calm: Fleet, path: str, fields: dict[str, Any], text: str) -> None:
    before = {name: calm[name].requests[path] for name in calm.workers}
    assert error(await ask(calm, path, **fields)) == text
    assert {name: calm[name].requests[path] for name in calm.workers} == before


@pytest.mark.rule(120)
@pytest.mark.parametrize("limit", [None, 0, -5])
async def test_an_answer_needs_a_limit(calm: Fleet, limit: int | None) -> None:
    assert error(await ask(calm, max_tokens=limit)) == "max_tokens is required and must be positive"
    assert (await ask(calm, COUNT, max_tokens=limit)).status_code == 200
