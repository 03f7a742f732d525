"""A load balancer with several vLLMs behind it, as one static worker and as one attached server."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet.agents import agent, wait_for
from tests.support.fleet.live import fleet
from tests.support.registry.valkey import running_valkey
from tests.support.tables import routing_table
from tests.support.until import auntil
from tests.support.vllm.balancer import Balancer
from vllama_pool.workers.registry import embedded
from vllama_pool.workers.registry.client import Registry, connect
from vllama_pool.workers.registry.record import WorkerState
from vllama_pool.workers.simulated.options import Options
from vllama_pool.workers.simulated.server import Simulated
from vllama_pool.workers.vllm.server_identity import SEVERAL_SERVERS

ABLE = Options(model="m", tokens_per_second=2000, ttft=0.0, answer_tokens=20, tool_calls=True, reasoning=True)
CHATS = "/v1/chat/completions"
DETECTION = 3
"""Chats of one detection at most."""
TOOL = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
CHAT: dict[str, Any] = {
    "model": "m",
    "stream": False,
    "messages": [{"role": "user", "content": "What time is it?"}],
    "tools": [TOOL],
}
SECONDS = 15
"""A probe per second, and a full one every tenth."""


async def chat_alternately(address: Balancer, one: Simulated) -> None:
    """Let only the first server generate, so that the counters differ."""
    ports = address.ports
    address.ports = [one.port]
    reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
    body = b'{"model": "m", "prompt": "hi", "max_tokens": 100}'
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    address.ports = ports


@pytest.mark.long
@pytest.mark.parametrize("per_request", [True, False], ids=["requests", "connections"])
async def test_servers_behind_a_balancer_are_asked_once_and_reported_once(
    per_request: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        Simulated(ABLE) as one,
        Simulated(ABLE) as two,
        Balancer([one.port, two.port], per_request=per_request) as address,
    ):
        await chat_alternately(address, one)
        table = routing_table(workers=[{"url": address.url, "name": "lb"}])
        async with fleet(tmp_path, {}, table=table) as running:

            async def worker() -> dict[str, Any]:
                found: dict[str, Any] = (await running.http.get("/admin/workers")).json()["workers"][0]
                return found

            async def able() -> bool:
                shown = (await running.http.post("/api/show", json={"model": "m"})).json()
                return "tools" in shown["capabilities"]

            await auntil(able, 20, "the abilities")
            chats, until = 0, time.monotonic() + SECONDS
            while time.monotonic() < until:
                answer = await running.http.post("/api/chat", json=CHAT)
                assert answer.status_code == 200, answer.text
                chats += 1
                await asyncio.sleep(0.2)

            async def reported() -> bool:
                return SEVERAL_SERVERS in (await worker())["note"]

            await auntil(reported, 30, "the note")
            assert (await worker())["tokens_per_second"] == 0
            questions = one.requests[CHATS] + two.requests[CHATS] - chats
            assert 0 < questions <= DETECTION
            assert len([message for message in caplog.messages if SEVERAL_SERVERS in message]) == 1


async def test_an_attached_balancer_is_asked_once_and_reported_once(tmp_path: Path) -> None:
    async with (
        Simulated(ABLE) as one,
        Simulated(ABLE) as two,
        Balancer([one.port, two.port], per_request=True) as address,
        running_valkey(tmp_path),
        connect(embedded.address(tmp_path)) as redis,
    ):
        await chat_alternately(address, one)
        registry = Registry(redis, "default")
        async with agent("--attach", address.url, "--name", "w", state_dir=tmp_path) as worker:
            await wait_for(registry, "w", WorkerState.READY, 60)
            await auntil(lambda: worker.says(SEVERAL_SERVERS), 60, "the report")
            asked = one.requests[CHATS] + two.requests[CHATS]
            for _ in range(3):
                await chat_alternately(address, two)
                await asyncio.sleep(0.5)
            found = await wait_for(registry, "w", WorkerState.READY, 60)
            assert (found.load.note, found.load.tokens_per_second) == (SEVERAL_SERVERS, 0)
            assert one.requests[CHATS] + two.requests[CHATS] == asked
            assert sum(SEVERAL_SERVERS in line for line in worker.lines) == 1
