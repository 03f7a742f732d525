"""Teams with weights whose requests wait for a place, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.fleet.live import Fleet, fleet
from tests.support.until import auntil
from vllama_pool.config.api_keys import digest
from vllama_pool.config.routing.table import parse
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

WORKER = Options(model="tiny", tokens_per_second=5000, ttft=0.001, answer_tokens=4, slots=32)
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": False}
REQUESTS = 24
"""Of each team."""


def routing(blue: int, red: int) -> str:
    keys = {name: digest(f"{name}s-key").hex() for name in ("anna", "bob")}
    return (
        "models: {tiny: {limits: {concurrency: 1}}}\n"
        f"teams: {{blue: {{weight: {blue}}}, red: {{weight: {red}}}}}\n"
        f"keys: {{anna: {{sha256: {keys['anna']}, team: blue}}, bob: {{sha256: {keys['bob']}, team: red}}}}\n"
    )


async def gauge(running: Fleet, name: str) -> float:
    lines = (await running.http.get("/metrics")).text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f'{name}{{model="tiny'))


async def turns_of(running: Fleet, while_they_wait: Callable[[], Awaitable[None]]) -> list[str]:
    """Let the requests of both teams wait, and return their keys in the order of the answers."""
    order: list[str] = []

    async def ask(name: str) -> None:
        headers = {"authorization": f"Bearer {name}s-key"}
        answer = await running.http.post("/api/chat", json=CHAT, headers=headers)
        assert answer.status_code == 200
        order.append(name)

    async def is_held() -> bool:
        return await gauge(running, "vllama_queue_in_progress") == 1

    async def all_wait() -> bool:
        return await gauge(running, "vllama_queue_waiting") == 2 * REQUESTS

    running["a"].set_faults([faults.Hang(paths=("/v1/chat/completions",))])
    holder = asyncio.create_task(ask("anna"))
    await auntil(is_held, 20, "the first request to be in progress")
    tasks = [asyncio.create_task(ask(name)) for _ in range(REQUESTS) for name in ("anna", "bob")]
    await auntil(all_wait, 20, "all others to wait")
    await while_they_wait()
    running["a"].set_faults([])
    holder.cancel()
    await asyncio.gather(*tasks)
    return order


async def nothing() -> None:
    pass


async def test_two_teams_that_wait_take_turns_by_their_weights(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": WORKER}, table=parse(routing(3, 1).encode())) as running:
        order = await turns_of(running, nothing)
    assert len(order) == 2 * REQUESTS
    assert order[:16].count("anna") == pytest.approx(12, abs=1)


async def test_a_reload_changes_the_weights_of_teams_whose_requests_wait(tmp_path: Path) -> None:
    file, text = tmp_path / "routing.yaml", routing(1, 3)
    file.write_text(routing(3, 1))

    async def reload() -> None:
        file.write_text(text)
        revision = parse(text.encode()).revision
        await auntil(lambda: is_live(revision), 20, "the new weights")

    async def is_live(revision: str) -> bool:
        return f'revision="{revision}"' in (await running.http.get("/metrics")).text

    async with fleet(tmp_path / "state", {"a": WORKER}, routing_file=file) as running:
        order = await turns_of(running, reload)
    assert order[:16].count("anna") == pytest.approx(4, abs=1)
