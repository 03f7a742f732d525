"""`vllama worker` over real vLLM: true metadata, a crash, a drain, and the agent's own death."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.fleet.agents import AgentProcess, agent, group, seen, wait_for, wait_gone
from tests.support.ports import free_ports
from tests.support.registry.valkey import running_valkey
from tests.support.until import auntil
from vllama_pool.workers.registry import embedded
from vllama_pool.workers.registry.client import Registry, connect
from vllama_pool.workers.registry.record import WorkerState

NAME = "smollm2:135m"
START = 300.0
"""Seconds that vLLM may take to start on a busy machine."""
TOKENS = 150


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async with running_valkey(tmp_path), connect(embedded.address(tmp_path)) as redis:
        yield Registry(redis, "default")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=120.0) as made:
        yield made


@pytest.fixture
async def worker(
    registry: Registry, vllm_command: list[str], smollm2: Path, tmp_path: Path
) -> AsyncIterator[AgentProcess]:
    flags = ("--served-model-name", NAME, "--max-model-len", "2048", "--max-num-seqs", "8", "--enforce-eager")
    args = ("--model", str(smollm2), "--name", "w", "--port", str(free_ports()), "--", *flags)
    env = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    async with agent(*args, state_dir=tmp_path, env=env, program=vllm_command) as running:
        yield running


async def stream(client: httpx.AsyncClient, url: str) -> list[str]:
    """The data lines of one completion of TOKENS tokens."""
    body = {
        "model": NAME,
        "prompt": "Count:",
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with client.stream("POST", url + "/v1/completions", json=body) as response:
        return [line.removeprefix("data: ") async for line in response.aiter_lines() if line]


async def is_running(registry: Registry, count: int) -> bool:
    found = await seen(registry, "w")
    return found is not None and found.load.running >= count


async def test_a_life_with_a_crash_and_a_drain(
    worker: AgentProcess, registry: Registry, client: httpx.AsyncClient, smollm2: Path
) -> None:
    first = await wait_for(registry, "w", WorkerState.READY, START)
    (info,) = first.record.models
    assert (info.name, info.architecture, info.quantization) == (NAME, "llama", "BF16")
    assert (info.parameter_count, info.context_length, info.embedding_length) == (134_515_008, 2048, 576)
    assert info.size == (smollm2 / "model.safetensors").stat().st_size
    assert info.capabilities == ("completion", "tools")
    assert info.has_template
    assert (first.record.slots, first.record.engine_version) == (8, "0.32.0")
    assert len(group(first.record.pid)) >= 3, "server, engine and worker are one group"

    os.killpg(first.record.pid, signal.SIGKILL)
    down = await wait_for(registry, "w", WorkerState.RESTARTING, 5)
    assert down.load.note == "vLLM died (SIGKILL): restarting in 1 s"
    assert down.record.models == first.record.models
    again = await wait_for(registry, "w", WorkerState.READY, START, restarts=1)
    assert again.record.models == first.record.models

    streams = [asyncio.create_task(stream(client, again.record.url)) for _ in range(4)]
    await auntil(lambda: is_running(registry, 4), 30, "four requests run")
    worker.signal(signal.SIGTERM)
    await wait_for(registry, "w", WorkerState.DRAINING, 3)
    for lines in await asyncio.gather(*streams):
        assert lines[-1] == "[DONE]"
        assert json.loads(lines[-2])["usage"]["completion_tokens"] == TOKENS
    await wait_gone(registry, "w", 10)
    assert await worker.exit_code(60) == 0
    assert group(again.record.pid) == []


async def test_whoever_is_killed_takes_the_rest_along(
    worker: AgentProcess, registry: Registry, client: httpx.AsyncClient
) -> None:
    first = await wait_for(registry, "w", WorkerState.READY, START)
    os.kill(first.record.pid, signal.SIGKILL)
    await auntil(lambda: not group(first.record.pid), 10, "the engine and its worker go with their server")
    again = await wait_for(registry, "w", WorkerState.READY, START, restarts=1)

    cut = asyncio.create_task(stream(client, again.record.url))
    await auntil(lambda: is_running(registry, 1), 30, "a request runs")
    worker.signal(signal.SIGKILL)
    killed = time.monotonic()
    await auntil(lambda: not group(again.record.pid), 10, "vLLM goes with its agent")
    print(f"\nkill -9 of an agent: vLLM gone after {time.monotonic() - killed:.1f} s")  # noqa: T201
    await asyncio.wait([cut])  # finished in the few seconds that vLLM had, or cut off
