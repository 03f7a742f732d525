"""A vLLM that sleeps leaves the rotation, and returns to it when it wakes up."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx

from tests.support.fleet.live import Fleet, fleet
from tests.support.tables import routing_table
from tests.support.until import auntil
from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.workers.simulated.options import Options
from vllama_pool.workers.simulated.server import Simulated

OPTIONS = Options(model="m", tokens_per_second=200, ttft=0.01, answer_tokens=3, dev_mode=True)
COMPLETIONS = "/v1/chat/completions"
CHAT: dict[str, Any] = {"model": "m", "stream": False, "messages": [{"role": "user", "content": "hi"}]}


def static(**workers: Simulated) -> RoutingTable:
    return routing_table(workers=[{"url": worker.url, "name": name} for name, worker in workers.items()])


async def become(running: Fleet, **expected: str) -> None:
    """Wait until the router shows these states."""

    async def arrived() -> bool:
        return await running.states() == {f"static/{name}": state for name, state in expected.items()}

    await auntil(arrived, 10, f"the workers are {expected}")


async def detected(*workers: Simulated) -> None:
    """Wait until the router has asked each worker for its abilities: these requests are not a client's."""
    for worker in workers:
        await auntil(lambda worker=worker: worker.requests[COMPLETIONS] >= 2, 10, "its abilities are detected")


async def test_a_sleeping_worker_gets_no_requests_until_it_wakes_up(tmp_path: Path) -> None:
    async with (
        Simulated(OPTIONS) as one,
        Simulated(OPTIONS) as two,
        httpx.AsyncClient(trust_env=False, verify=False, timeout=60) as ops,
        fleet(tmp_path, {}, table=static(one=one, two=two)) as running,
    ):
        await detected(one, two)
        await ops.post(f"{one.url}/sleep")
        await become(running, one="sleeping", two="ready")
        before = one.requests[COMPLETIONS]
        for _ in range(6):
            assert (await running.http.post("/api/chat", json=CHAT)).status_code == 200
        assert one.requests[COMPLETIONS] == before

        await ops.post(f"{two.url}/sleep")
        await become(running, one="sleeping", two="sleeping")
        sent = time.monotonic()
        refused = await running.http.post("/api/chat", json=CHAT)
        assert time.monotonic() - sent < 30
        assert refused.status_code == 503
        assert "2 sleeping" in refused.json()["error"]
        assert (await running.http.get("/api/ps")).json() == {"models": []}
        assert [model["name"] for model in (await running.http.get("/api/tags")).json()["models"]] == ["m:latest"]

        await ops.post(f"{one.url}/wake_up")
        await become(running, one="ready", two="sleeping")
        assert (await running.http.post("/api/chat", json=CHAT)).status_code == 200


async def test_requests_sent_to_a_worker_that_has_just_fallen_asleep_move_to_another(tmp_path: Path) -> None:
    async with (
        Simulated(OPTIONS) as one,
        Simulated(OPTIONS) as two,
        httpx.AsyncClient(trust_env=False, verify=False, timeout=60) as ops,
        fleet(tmp_path, {}, table=static(one=one, two=two)) as running,
    ):
        await detected(one, two)
        await ops.post(f"{one.url}/sleep")
        answers = await asyncio.gather(*(running.http.post("/api/chat", json=CHAT) for _ in range(8)))
        assert [answer.status_code for answer in answers] == [200] * 8
        await auntil(lambda: one.waiting == 0, 5, "what waited in it is cancelled")
