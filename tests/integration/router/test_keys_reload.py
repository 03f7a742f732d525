"""API keys that a reload of the routing file adds, changes and removes."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet.live import Fleet, fleet
from tests.support.until import auntil
from vllama_pool.config.api_keys import ApiKey, digest
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

OPTIONS = Options(model="tiny", tokens_per_second=5000, ttft=0.001, answer_tokens=8, slots=32)
SLOW = Options(model="slow", tokens_per_second=20, ttft=0.001, answer_tokens=60, slots=32)
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": False}


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}s-key"}


def keys(*lines: str) -> str:
    """Return a file with keys, such as "anna, models: [tiny]"."""
    found = [line.partition(", ") for line in lines]
    return "keys:\n" + "".join(
        f"  {name}: {{sha256: {digest(f'{name}s-key').hex()}{', ' if more else ''}{more}}}\n" for name, _, more in found
    )


async def status(running: Fleet, name: str, **fields: Any) -> int:
    return (await running.http.post("/api/chat", json={**CHAT, **fields}, headers=bearer(name))).status_code


async def becomes(running: Fleet, name: str, wanted: int, **fields: Any) -> None:
    async def is_so() -> bool:
        return await status(running, name, **fields) == wanted

    await auntil(is_so, 20, f"{wanted} for {name}")


def write(file: Path, text: str) -> None:
    file.write_text(text)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "routing.yaml"


async def test_a_reload_adds_and_removes_keys_and_running_requests_finish(tmp_path: Path, file: Path) -> None:
    write(file, keys("anna", "bob"))
    async with fleet(tmp_path / "s", {"a": OPTIONS, "b": SLOW}, routing_file=file) as running:
        assert (await status(running, "anna"), await status(running, "carol")) == (200, 401)
        body = {**CHAT, "model": "slow", "stream": True}
        async with running.http.stream("POST", "/api/chat", json=body, headers=bearer("anna")) as response:
            lines = response.aiter_lines()
            await anext(lines)
            write(file, keys("bob", "carol"))
            await becomes(running, "carol", 200)
            assert (await status(running, "anna"), await status(running, "bob")) == (401, 200)
            last = [line async for line in lines][-1]
        assert '"done":true' in last
        metrics = (await running.http.get("/metrics")).text
        assert 'vllama_key_requests_total{key="anna",team=""} 2.0' in metrics
        assert 'vllama_key_in_flight{key="anna",team=""} 0.0' in metrics


async def test_a_reload_changes_the_models_of_a_key(tmp_path: Path, file: Path) -> None:
    write(file, keys("anna, models: [tiny]"))
    async with fleet(tmp_path / "s", {"a": OPTIONS}, routing_file=file) as running:
        assert await status(running, "anna") == 200
        write(file, "models: {chat: {serve: tiny}}\n" + keys("anna, models: [chat]"))
        await becomes(running, "anna", 404)
        assert await status(running, "anna", model="chat") == 200
        write(file, "models: {chat: {serve: tiny, aliases: [tiny2]}}\n" + keys("anna, models: [tiny2]"))
        await becomes(running, "anna", 200, model="tiny2")
        assert await status(running, "anna", model="chat") == 200


async def test_the_first_key_closes_the_router_and_the_last_one_stays(tmp_path: Path, file: Path) -> None:
    write(file, "models: {}\n")
    async with fleet(tmp_path / "s", {"a": OPTIONS}, routing_file=file) as running:
        assert (await running.http.post("/api/chat", json=CHAT)).status_code == 200
        write(file, keys("anna"))

        async def closed() -> bool:
            return (await running.http.post("/api/chat", json=CHAT)).status_code == 401

        await auntil(closed, 20, "the router to be closed")
        assert await status(running, "anna") == 200
        write(file, "models: {}\n")
        await auntil(lambda: _refused(running, "has no key, so that anyone could use the models"), 20, "a refusal")
        assert (await closed(), await status(running, "anna")) == (True, 200)


async def test_a_key_of_the_settings_cannot_be_taken_by_a_reload(tmp_path: Path, file: Path) -> None:
    write(file, keys("anna"))
    own = (ApiKey("ci", digest("cis-key")),)
    async with fleet(tmp_path / "s", {"a": OPTIONS}, routing_file=file, api_keys=own) as running:
        assert (await status(running, "ci"), await status(running, "anna")) == (200, 200)
        write(file, keys("ci", "bob"))
        await auntil(lambda: _refused(running, "VLLAMA_API_KEYS has a key of this name"), 20, "a refusal")
        assert [await status(running, name) for name in ("ci", "anna", "bob")] == [200, 200, 401]


async def test_a_reload_changes_limits_while_requests_run(tmp_path: Path, file: Path) -> None:
    write(file, keys("anna, limits: {concurrency: 1}"))
    async with fleet(tmp_path / "s", {"a": OPTIONS, "b": SLOW}, routing_file=file) as running:
        running["b"].set_faults([faults.Hang()])
        body = {**CHAT, "model": "slow"}
        task = asyncio.create_task(running.http.post("/api/chat", json=body, headers=bearer("anna")))
        await auntil(lambda: _in_flight(running, 1), 20, "the request to run")
        assert await status(running, "anna") == 429
        write(file, keys("anna, limits: {concurrency: 2}"))
        await becomes(running, "anna", 200)
        write(file, keys("anna, limits: {concurrency: 1}", "bob"))
        await becomes(running, "bob", 200)
        assert await status(running, "anna") == 429
        task.cancel()
        await asyncio.wait([task])
        await becomes(running, "anna", 200)


async def test_places_are_free_again_whatever_becomes_of_the_requests(tmp_path: Path, file: Path) -> None:
    """Clients that leave, failing workers, refusals and reloads, at the same time."""
    write(file, keys("anna, limits: {concurrency: 8}"))
    async with fleet(tmp_path / "s", {"a": OPTIONS, "b": SLOW}, routing_file=file) as running:
        running["a"].set_faults([faults.Status(status=500, marker="please fail")])
        rng = random.Random(7)

        async def leave_early(model: str) -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rng.uniform(0.01, 1.0)):
                    text = rng.choice(["hello", "please fail"])
                    messages = [{"role": "user", "content": text}]
                    await status(running, "anna", model=model, messages=messages, stream=True)

        tasks = [asyncio.create_task(leave_early(rng.choice(["tiny", "slow", "nope"]))) for _ in range(150)]
        for limit in (4, 9, 8):
            write(file, keys(f"anna, limits: {{concurrency: {limit}}}"))
            await asyncio.sleep(0.4)
        await asyncio.gather(*tasks)
        running["a"].set_faults([])
        await auntil(lambda: _in_flight(running, 0), 20, "all requests to end")
        running["b"].set_faults([faults.Hang()])
        body = {**CHAT, "model": "slow"}
        holding = [
            asyncio.create_task(running.http.post("/api/chat", json=body, headers=bearer("anna"))) for _ in range(8)
        ]
        await auntil(lambda: _in_flight(running, 8), 20, "the requests to run")
        assert await status(running, "anna") == 429
        assert 'vllama_key_in_flight{key="anna",team=""} 8.0' in (await running.http.get("/metrics")).text
        for task in holding:
            task.cancel()
        await asyncio.wait(holding)
        await becomes(running, "anna", 200)
        assert 'vllama_key_in_flight{key="anna",team=""} 0.0' in (await running.http.get("/metrics")).text


async def _in_flight(running: Fleet, count: int) -> bool:
    workers = (await running.http.get("/admin/workers")).json()["workers"]
    return sum(int(worker["in_flight"]) for worker in workers) == count


async def _refused(running: Fleet, text: str) -> bool:
    page = (await running.http.get("/admin/workers")).text
    return text in page
