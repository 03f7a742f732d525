"""One real vLLM with a LoRA adapter that an agent has started, behind `vllama serve` with a routing file."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.fleet.live import PATIENT_ENV
from tests.support.fleet.programs import VLLAMA, Program, Serve
from tests.support.ports import free_ports
from tests.support.until import auntil, until
from tests.support.vllm.schemas import answers
from tests.support.vllm.servers import ANSWER_TIMEOUT, START_TIMEOUT, engine_of, frozen
from tests.support.vllm.weather_tool import CHAT as WEATHER

RULES = """
models:
  "team-*":
    serve: "{1}-lora"
    fallback: {no_worker: [base]}
  base: {serve: tiny-qwen3}
  mixed: {serve: [tiny-qwen3, ada-lora], split: user}
"""
ASIDE = """
maintenance:
  - {workers: [w], message: rack 3 moves}
"""
SAY_HELLO = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "temperature": 0}
PLAIN = {"stream": False, "think": False, "options": {"temperature": 0, "num_predict": 8}}


@dataclass
class Managed:
    """A router, and an agent with its vLLM."""

    serve: Serve
    worker: Program
    routing_file: Path


@pytest.fixture(scope="module")
def managed(
    vllm_command: list[str], tiny_qwen3: Path, tiny_qwen3_lora: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Managed]:
    folder = tmp_path_factory.mktemp("managed")
    routing_file = folder / "routing.yaml"
    routing_file.write_text(RULES)
    env = {"VLLAMA_STATE_DIR": str(folder / "state"), "VLLAMA_ROUTING_FILE": str(routing_file), **PATIENT_ENV}
    env |= {"VLLAMA_VLLM": shlex.join(vllm_command), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    serve = Serve([VLLAMA, "serve", "--port", "0"], env, folder / "serve.log")
    flags = ("--max-model-len", "1024", "--max-num-seqs", "4", "--enable-lora", "--max-lora-rank", "8")
    words = [VLLAMA, "worker", "--model", str(tiny_qwen3), "--name", "w", "--port", str(free_ports()), "--"]
    worker = Program([*words, *flags, "--lora-modules", f"ada-lora={tiny_qwen3_lora}"], env, folder / "worker.log")
    system = Managed(serve, worker, routing_file)
    try:
        until(lambda: _is_ready(system), START_TIMEOUT, "the worker to be ready", interval=0.2)
        yield system
    finally:
        worker.end()
        serve.end()


def _is_ready(system: Managed) -> bool:
    for program in (system.serve, system.worker):
        assert program.alive, program.log.read_text(errors="replace")[-3000:]
    if not system.serve.url:
        return False
    page = httpx.get(f"{system.serve.url}/admin/workers", trust_env=False, timeout=ANSWER_TIMEOUT).json()
    return [worker["state"] for worker in page["workers"]] == ["ready"]


@pytest.fixture
async def http(managed: Managed) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=managed.serve.url, trust_env=False, timeout=ANSWER_TIMEOUT) as client:
        yield client


async def listed(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await http.get("/api/tags")).json()["models"]
    return found


@pytest.mark.rule(95, 176)
async def test_the_agent_chooses_parsers_for_tools_and_thinking(managed: Managed, http: httpx.AsyncClient) -> None:
    [item] = [model for model in await listed(http) if model["name"] == "tiny-qwen3:latest"]
    assert item["capabilities"] == ["completion", "tools", "thinking"]
    assert managed.worker.says("chose --tool-call-parser hermes and --reasoning-parser qwen3")
    body = {"model": "tiny-qwen3", "stream": False, "options": {"temperature": 0}}
    called = (await http.post("/api/chat", json={**body, **WEATHER})).json()
    [call] = called["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather", json.dumps(called)
    assert call["function"]["arguments"] == {"city": "Paris", "unit": "celsius"}
    hello = {**body, "messages": [{"role": "user", "content": "hello"}]}
    thought = (await http.post("/api/chat", json=hello)).json()["message"]
    assert thought["thinking"].strip() == "The user said something. I greet."
    assert thought["content"].strip().startswith("Hello!")
    plain = (await http.post("/api/chat", json={**hello, "think": False})).json()["message"]
    assert "thinking" not in plain
    await check_that_an_object_is_completed(http, hello)
    await check_that_a_call_can_be_forced(http)
    for answer in await answers(http, "tiny-qwen3"):
        answer.check()


async def check_that_a_call_can_be_forced(http: httpx.AsyncClient) -> None:
    """The agent chooses guidance for JSON schemas, which has no grammars for calls.

    Of a forced call, this model does not write sensible arguments.
    """
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ("required", named):
        for stream in (False, True):
            body = {**WEATHER, "model": "tiny-qwen3", "temperature": 0, "tool_choice": choice, "stream": stream}
            response = await http.post("/v1/chat/completions", json=body)
            assert response.status_code == 200, response.text
            assert '"name":"get_weather"' in response.text, response.text
    tool = {"name": "get_weather", "input_schema": WEATHER["tools"][0]["function"]["parameters"]}
    body = {"model": "tiny-qwen3", "max_tokens": 100, "messages": WEATHER["messages"], "tools": [tool], "stream": True}
    for forced in ({"type": "any"}, {"type": "tool", "name": "get_weather"}):
        response = await http.post("/v1/messages", json={**body, "tool_choice": forced})
        assert response.status_code == 200, response.text
        assert '"type":"tool_use"' in response.text, response.text


async def check_that_an_object_is_completed(http: httpx.AsyncClient, hello: dict[str, Any]) -> None:
    """The agent limits whitespace in JSON, which this model would generate until its context is full."""
    schema = {
        "type": "object",
        "properties": {"sunny": {"type": "boolean"}, "city": {"enum": ["Paris", "Rome"]}},
        "required": ["sunny", "city"],
        "additionalProperties": False,
    }
    answer = (await http.post("/api/chat", json={**hello, "format": schema})).json()
    assert answer["done_reason"] == "stop"
    content = json.loads(answer["message"]["content"])
    assert set(content) == {"sunny", "city"}
    assert answer["message"]["thinking"]


@pytest.mark.rule(108, 174)
async def test_a_lora_adapter_is_listed_answers_and_is_a_base_of_virtual_models(http: httpx.AsyncClient) -> None:
    models = {model["name"]: model for model in await listed(http)}
    base, adapter = models["tiny-qwen3:latest"], models["ada-lora:latest"]
    assert adapter["digest"] != base["digest"]
    assert adapter["size"] > base["size"]
    assert adapter["capabilities"] == base["capabilities"] == ["completion", "tools", "thinking"]

    shown = (await http.post("/api/show", json={"model": "ada-lora"})).json()
    assert shown["model_info"]["qwen3.context_length"] == 1024
    assert shown["model_info"]["general.base_model.0.name"] == "tiny-qwen3"

    virtual = {"model": "mine", "from": "ada-lora", "system": "Be brief.", "stream": False}
    assert (await http.post("/api/create", json=virtual)).json() == {"status": "success"}
    for name in ("ada-lora", "mine", "tiny-qwen3"):
        body = {"model": name, **PLAIN, "messages": [{"role": "user", "content": "hello"}]}
        answer = (await http.post("/api/chat", json=body)).json()
        assert answer["model"] == name
        assert answer["message"]["content"], answer
    rendered = {"model": "mine", **PLAIN, "_debug_render_only": True, "messages": [{"role": "user", "content": "hi"}]}
    text = (await http.post("/api/chat", json=rendered)).json()["_debug_info"]["rendered_template"]
    assert "Be brief." in text


async def ask(http: httpx.AsyncClient, model: str, **fields: object) -> httpx.Response:
    return await http.post("/v1/chat/completions", json={"model": model, **SAY_HELLO, **fields})


async def test_names_become_adapters_and_users_keep_their_side(managed: Managed, http: httpx.AsyncClient) -> None:
    async def served(model: str, **fields: object) -> str:
        answer = await ask(http, model, **fields)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == model
        assert answer.json()["choices"][0]["message"]
        logged = await asyncio.to_thread(managed.serve.request, answer.headers["x-request-id"])
        return str(logged["served"])

    assert await served("team-ada") == "ada-lora"
    assert await served("Team-New:latest") == "tiny-qwen3"
    sides = {user: await served("mixed", user=user) for user in "abcdefgh"}
    assert {user: await served("mixed", user=user) for user in sides} == sides
    assert len(Counter(sides.values())) == 2


async def test_a_worker_finishes_before_maintenance_and_returns_after(
    managed: Managed, http: httpx.AsyncClient
) -> None:
    """The engine is frozen, so that the request is in progress until the worker is set aside."""

    async def worker() -> dict[str, Any]:
        found: dict[str, Any] = (await http.get("/admin/workers")).json()["workers"][0]
        return found

    async def is_busy() -> bool:
        return bool((await worker())["in_flight"])

    async def is_aside() -> bool:
        return bool((await worker())["state"] == "set aside")

    async def answers_again() -> bool:
        return (await ask(http, "base")).status_code == 200

    with frozen(engine_of(managed.worker.process)):
        long = asyncio.create_task(ask(http, "base", max_tokens=50, ignore_eos=True))
        await auntil(is_busy, 60, "the worker to have a request")
        managed.routing_file.write_text(RULES + ASIDE)
        await auntil(is_aside, 60, "the worker to be set aside")
        assert (await ask(http, "base")).status_code == 503
        refused = (await ask(http, "team-ada")).json()["error"]["message"]
        assert refused.endswith("its workers are out: 1 set aside (rack 3 moves)")
        assert not long.done()
    answer = await long
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 50
    managed.routing_file.write_text(RULES)
    await auntil(answers_again, 60, "the worker to return")
