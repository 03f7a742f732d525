"""Registry outages, start order, and a second router."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import httpx

from tests.support.fleet.main_job import MODEL, PLAIN, Fleet
from tests.support.fleet.streams import BackgroundLoad, Figures, chat_body, generate_body, kept_killed, streaming
from tests.support.until import auntil, until

AWAY = 10.0
"""Seconds."""
SPEED = ("--tokens-per-second", "300")


def test_a_worker_joins_that_started_before_the_registry(fleet: Fleet) -> None:
    """The fleet's own `vllama worker` did."""
    assert fleet.worker.process.create_time() < fleet.serve.process.create_time()
    assert fleet.worker.says("waiting for vllama serve")
    assert fleet.states()["plain"] == "ready"


async def test_no_request_fails_while_the_registry_is_killed_for_ten_seconds(
    fleet: Fleet, record_property: Figures
) -> None:
    async with BackgroundLoad(fleet, 4) as load:
        await auntil(lambda: load.requests.statuses, 60, "there is load")
        async with kept_killed(lambda: fleet.serve.valkey) as killed:
            await serves_without_registry(fleet, load)
            await auntil(lambda: len(killed) > 2, 60, "it is restarted and killed again")
        await serves_again(fleet, load)
    check(load)
    record_property("figure", f"registry killed {len(killed)} times in {AWAY:.0f} s: {summary(load)}")


async def test_no_request_fails_while_the_registry_is_frozen_for_ten_seconds(
    fleet: Fleet, record_property: Figures
) -> None:
    valkey = fleet.serve.valkey
    assert valkey is not None
    async with BackgroundLoad(fleet, 4) as load:
        await auntil(lambda: load.requests.statuses, 60, "there is load")
        valkey.send_signal(signal.SIGSTOP)
        try:
            await serves_without_registry(fleet, load)
        finally:
            valkey.send_signal(signal.SIGCONT)
        await serves_again(fleet, load)
    check(load)
    record_property("figure", f"registry frozen for {AWAY:.0f} s: {summary(load)}")


async def serves_without_registry(fleet: Fleet, load: BackgroundLoad) -> None:
    """Wait for ten seconds, and until the router knows of the outage and requests begin and end within it."""
    start = time.monotonic()
    page = await auntil(lambda: _page_without_registry(fleet), 30, "the router to report the outage")
    assert {worker["id"] for worker in page["workers"]} == {"smollm2-0", "smollm2-1", "plain"}
    known = time.monotonic()
    await auntil(lambda: load.requests.failures or load.requests.within(known) >= 8, 120, "answers within the outage")
    await asyncio.sleep(max(0.0, start + AWAY - time.monotonic()))  # the length of the outage is the story


async def serves_again(fleet: Fleet, load: BackgroundLoad) -> None:
    """Wait until the registry and all workers are back, and requests are served while everything recovers."""
    await auntil(lambda: _registry_up(fleet), 60, "the registry is back")
    back = time.monotonic()
    await auntil(lambda: load.requests.failures or load.requests.within(back) >= 4, 120, "answers after the outage")
    await auntil(lambda: set(fleet.states().values()) == {"ready"}, 60, "all workers are ready")


def summary(load: BackgroundLoad) -> str:
    requests = load.requests
    return f"{len(requests.statuses)} requests, {len(requests.failures)} failed, slowest {requests.slowest:.2f} s"


def check(load: BackgroundLoad) -> None:
    assert load.requests.failures == []
    assert load.unlisted == 0


async def _registry_up(fleet: Fleet) -> bool:
    page = await asyncio.to_thread(fleet.get, "/admin/workers")
    return bool(page["registry_up"])


async def _page_without_registry(fleet: Fleet) -> Any:
    page = await asyncio.to_thread(fleet.get, "/admin/workers")
    return None if page["registry_up"] else page


async def test_a_second_serve_shares_the_workers_replaces_a_killed_agent_and_drains_on_sigint(fleet: Fleet) -> None:
    """Its worker is simulated: a fourth vLLM would take the cores from the others."""
    second = fleet.job.second_serve("--engine", "simulated", "--model", "side:1b", "--name", "side", *SPEED)
    try:
        await asyncio.to_thread(until, lambda: second.says("ready. Try:"), 120, "the second one is ready")
        assert second.says("run by another vllama serve")
        await auntil(lambda: "side" in fleet.states(), 30, "the first one knows its worker")
        every = sorted(["side:1b", MODEL, f"{PLAIN}:latest"])
        for url in (fleet.url, second.url):
            # A worker reports readiness to its serve and to the registry at once; routers receive it a moment later.
            await auntil(lambda url=url: _lists(url, every), 10, f"{url} to list {every}")
            assert chat(url)["eval_count"] == 3
            assert generate(url, "side:1b")["eval_count"] == 3
        second.agent("side").kill()
        await auntil(lambda: second.times_ready("side") > 1, 60, "a new agent serves")
        await auntil(lambda: fleet.states().get("side") == "ready", 60, "the first one knows it")
        assert generate(fleet.url, "side:1b")["eval_count"] == 3
        async with (
            streaming(f"{second.url}/api/chat", chat_body(60), 2, "ctrl-c") as (chats, chatting),
            streaming(f"{second.url}/api/generate", generate_body(1500, "side:1b"), 2, "side") as (own, tasks),
        ):
            await auntil(lambda: all(one.has_content for one in (*chats, *own)), 240, "all four stream")
            second.signal(signal.SIGINT)
            await asyncio.gather(*chatting, *tasks)
        assert all(one.complete for one in (*chats, *own))
        assert [one.tokens for one in chats] == [60, 60]
        assert await asyncio.to_thread(second.wait) == 0
        await asyncio.to_thread(second.wait_gone, 30)
        await auntil(lambda: "side" not in fleet.states(), 30, "its worker has left the fleet")
        assert chat(fleet.url)["eval_count"] == 3
    finally:
        second.end()


def chat(url: str) -> dict[str, int]:
    body = chat_body(3, stream=False)
    return httpx.post(f"{url}/api/chat", json=body, trust_env=False, timeout=300).raise_for_status().json()


def generate(url: str, model: str) -> dict[str, int]:
    body = {**generate_body(3, model), "stream": False}
    return httpx.post(f"{url}/api/generate", json=body, trust_env=False, timeout=300).raise_for_status().json()


def names(url: str) -> list[str]:
    models = httpx.get(f"{url}/api/tags", trust_env=False, timeout=300).raise_for_status().json()["models"]
    return sorted(model["name"] for model in models)


async def _lists(url: str, every: list[str]) -> bool:
    return await asyncio.to_thread(names, url) == every
