"""Requests to static workers whose abilities are not detected yet: the chats that would show them get no answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.fleet.live import Fleet, fleet
from tests.support.tables import routing_table
from tests.support.until import auntil
from vllama_pool.workers.simulated.faults import Hang
from vllama_pool.workers.simulated.options import Options
from vllama_pool.workers.simulated.server import Simulated

HELD = (Hang(marker="What is 17 times 23?"),)
PLAIN = Options(model="m", tokens_per_second=2000, ttft=0.0, answer_tokens=20, faults=HELD)
ABLE = replace(PLAIN, tool_calls=True, reasoning=True)
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGM4YWQEAALyAS2saifnAAAAAElFTkSuQmCC"
NAME = "registry.ollama.ai/library/m:latest"


@asynccontextmanager
async def router_over(state_dir: Path, *workers: Options, **entry: Any) -> AsyncIterator[Fleet]:
    """A router that has just seen these static workers. `entry`: of the model in the routing file."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(Simulated(options)) for options in workers]
        named = enumerate(servers)
        models = {"m": entry} if entry else {}
        table = routing_table(models=models, workers=[{"url": server.url, "name": f"w{i}"} for i, server in named])
        yield await stack.enter_async_context(fleet(state_dir, {}, table=table))


async def ask(running: Fleet, **fields: Any) -> httpx.Response:
    path = "/api/generate" if "prompt" in fields else "/api/chat"
    body = {"model": "m", "messages": [{"role": "user", "content": "How is the weather?"}], "stream": False} | fields
    return await running.http.post(path, json=body)


async def shown(running: Fleet) -> list[str]:
    capabilities: list[str] = (await running.http.post("/api/show", json={"model": "m"})).json()["capabilities"]
    return capabilities


@pytest.mark.rule(159)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_tool_chat_is_answered_before_tools_are_detected(stream: bool, tmp_path: Path) -> None:
    async with router_over(tmp_path, ABLE) as running:
        answer = await ask(running, tools=[TOOL], stream=stream)
        assert answer.status_code == 200, answer.text
        assert "get_weather" in answer.text
        assert await shown(running) == ["completion"]


CHATS = [
    ("/api/chat", {"messages": [{"role": "user", "content": "How?"}], "tools": [TOOL]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "How?"}], "tools": [TOOL]}),
    ("/v1/responses", {"input": "How?", "tools": [{"type": "function", **TOOL["function"]}]}),
    (
        "/v1/messages",
        {
            "messages": [{"role": "user", "content": "How?"}],
            "max_tokens": 50,
            "tools": [{"name": "get_weather", "input_schema": {"type": "object"}}],
        },
    ),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("path", "fields"), CHATS, ids=[path for path, _ in CHATS])
async def test_tools_that_a_worker_refuses_are_dropped_if_the_entry_ignores_them(
    tmp_path: Path, path: str, fields: dict[str, Any], stream: bool
) -> None:
    async with router_over(tmp_path, PLAIN, tools="ignore") as running:
        answer = await running.http.post(path, json={"model": "m", "stream": stream, **fields})
        assert answer.status_code == 200, answer.text
        assert "does not support" not in answer.text


@pytest.mark.rule(95, 158)
@pytest.mark.parametrize("fields", [{}, {"prompt": "Why?"}], ids=["chat", "generate"])
async def test_thinking_is_switched_before_it_is_detected(fields: dict[str, Any], tmp_path: Path) -> None:
    async with router_over(tmp_path, ABLE) as running:
        for think in (True, "high", False):
            answer = (await ask(running, think=think, **fields)).json()
            thought = answer.get("thinking") or answer.get("message", {}).get("thinking") or ""
            assert bool(thought) == bool(think)


@pytest.mark.rule(159)
@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"messages": [{"role": "user", "content": "What is this?", "images": [PNG]}]}, "vision"),
        ({"prompt": "What is this?", "images": [PNG]}, "vision"),
    ],
    ids=["tools", "chat", "generate"],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_what_an_undetected_model_cannot_do_is_refused_as_in_ollama(
    fields: dict[str, Any], missing: str, stream: bool, tmp_path: Path
) -> None:
    async with router_over(tmp_path, PLAIN) as running:
        refused = await ask(running, stream=stream, **fields)
        assert (refused.status_code, refused.json()) == (400, {"error": f"{NAME} does not support {missing}"})


@pytest.mark.rule(176)
async def test_a_worker_that_is_not_known_yet_takes_no_capability_from_the_others(tmp_path: Path) -> None:
    async with router_over(tmp_path, replace(ABLE, faults=()), ABLE) as running:

        async def detected() -> bool:
            return "tools" in await shown(running)

        await auntil(detected, 20, "the tools of the first worker")
        answers = [await ask(running, tools=[TOOL]) for _ in range(8)]
        assert {answer.status_code for answer in answers} == {200}
