"""Tools, thinking and schemas on a real vLLM whose parser flags the agent has chosen."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.fleet.agents import AgentProcess, agent, vllm_agent
from tests.support.fleet.live import PATIENT, PATIENT_ENV, Fleet, patient_settings, serving
from tests.support.tables import routing_table
from tests.support.until import auntil
from tests.support.vllm.schemas import answers
from tests.support.vllm.servers import START_TIMEOUT, VllmServer
from tests.support.vllm.weather_tool import CHAT as WEATHER
from vllama_pool.router.app import create_app


async def models(running: Fleet) -> Any:
    return (await running.http.get("/api/tags")).json()["models"]


@pytest.fixture
async def worker(
    running: Fleet, vllm_command: list[str], tiny_qwen3: Path, tmp_path: Path
) -> AsyncIterator[AgentProcess]:
    flags = ("--max-model-len", "1024", "--max-num-seqs", "4")
    async with vllm_agent(vllm_command, tiny_qwen3, *flags, state_dir=tmp_path) as process:
        yield process


@pytest.mark.rule(95, 176)
async def test_the_agent_chooses_parsers_for_tools_and_thinking(running: Fleet, worker: AgentProcess) -> None:
    [item] = await auntil(lambda: models(running), START_TIMEOUT, "tiny-qwen3 to serve")
    assert item["capabilities"] == ["completion", "tools", "thinking"]
    assert worker.says("chose --tool-call-parser hermes and --reasoning-parser qwen3")
    body = {"model": "tiny-qwen3", "stream": False, "options": {"temperature": 0}}
    called = (await running.http.post("/api/chat", json={**body, **WEATHER})).json()
    [call] = called["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather", json.dumps(called)
    assert call["function"]["arguments"] == {"city": "Paris", "unit": "celsius"}
    hello = {**body, "messages": [{"role": "user", "content": "hello"}]}
    thought = (await running.http.post("/api/chat", json=hello)).json()["message"]
    assert thought["thinking"].strip() == "The user said something. I greet."
    assert thought["content"].strip().startswith("Hello!")
    plain = (await running.http.post("/api/chat", json={**hello, "think": False})).json()["message"]
    assert "thinking" not in plain
    await check_that_an_object_is_completed(running, hello)
    await check_that_a_call_can_be_forced(running)
    for answer in await answers(running.http, "tiny-qwen3"):
        answer.check()


async def check_that_a_call_can_be_forced(running: Fleet) -> None:
    """The agent chooses guidance for JSON schemas, which has no grammars for calls.

    Of a forced call, this model does not write sensible arguments.
    """
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ("required", named):
        for stream in (False, True):
            body = {**WEATHER, "model": "tiny-qwen3", "temperature": 0, "tool_choice": choice, "stream": stream}
            response = await running.http.post("/v1/chat/completions", json=body)
            assert response.status_code == 200, response.text
            assert '"name":"get_weather"' in response.text, response.text
    tool = {"name": "get_weather", "input_schema": WEATHER["tools"][0]["function"]["parameters"]}
    body = {"model": "tiny-qwen3", "max_tokens": 100, "messages": WEATHER["messages"], "tools": [tool], "stream": True}
    for forced in ({"type": "any"}, {"type": "tool", "name": "get_weather"}):
        response = await running.http.post("/v1/messages", json={**body, "tool_choice": forced})
        assert response.status_code == 200, response.text
        assert '"type":"tool_use"' in response.text, response.text


async def check_that_an_object_is_completed(running: Fleet, hello: dict[str, Any]) -> None:
    """The agent limits whitespace in JSON, which this model would generate until its context is full."""
    schema = {
        "type": "object",
        "properties": {"sunny": {"type": "boolean"}, "city": {"enum": ["Paris", "Rome"]}},
        "required": ["sunny", "city"],
        "additionalProperties": False,
    }
    answer = (await running.http.post("/api/chat", json={**hello, "format": schema})).json()
    assert answer["done_reason"] == "stop"
    content = json.loads(answer["message"]["content"])
    assert set(content) == {"sunny", "city"}
    assert answer["message"]["thinking"]


@pytest.mark.rule(176)
async def test_capabilities_of_an_attached_server_are_detected(
    running: Fleet, tiny_qwen3_vllm: VllmServer, tmp_path: Path
) -> None:
    async def has_capabilities() -> Any:
        listed = await models(running)
        return listed and listed[0]["capabilities"] == ["completion", "tools", "thinking"]

    async with agent("--attach", tiny_qwen3_vllm.url, state_dir=tmp_path, env=PATIENT_ENV):
        await auntil(has_capabilities, 60, "tiny-qwen3 to list its capabilities")


@pytest.mark.rule(176)
async def test_capabilities_of_a_server_in_the_routing_file_are_detected(
    tiny_vision_vllm: VllmServer, tmp_path: Path
) -> None:
    table = routing_table(workers=[{"url": tiny_vision_vllm.url, "name": "theirs"}])
    app = create_app(patient_settings(tmp_path, **PATIENT), table, log_stream=io.BytesIO())
    async with serving(app) as url, httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as http:

        async def has_capabilities() -> Any:
            listed = (await http.get("/api/tags")).json()["models"]
            return listed and listed[0]["capabilities"] == ["completion", "vision"]

        await auntil(has_capabilities, 60, "tiny-vision to list its capabilities")
