"""`vllama serve` says "ready" when every router process routes to the workers."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.fleet.programs import Serve
from tests.support.ports import free_ports
from tests.support.registry.held_reads import HeldReads
from tests.support.registry.valkey import running_valkey
from tests.support.until import auntil

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")]

VLLAMA = (sys.executable, "-P", "-m", "vllama_pool.router.cli.main")
READY = "ready. Try:"


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[HeldReads]:
    port = free_ports()
    async with running_valkey(tmp_path / "redis", port=port), HeldReads(port).serving() as held:
        yield held


@asynccontextmanager
async def serving(folder: Path, redis_port: int, *words: str) -> AsyncIterator[Serve]:
    environ = {
        "VLLAMA_STATE_DIR": str(folder / "state"),
        "VLLAMA_FLEET_SECRET": "0123456789abcdef",
        "REDIS_URL": f"redis://127.0.0.1:{redis_port}",
    }
    options = ("--port", "0", "--processes", "3", "--vllm-port", str(free_ports(2)), *words)
    serve = Serve([*VLLAMA, "serve", *options], environ, folder / "serve.log")
    try:
        yield serve
    finally:
        await asyncio.to_thread(serve.end)


async def text(url: str) -> str:
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=20) as http:
        return (await http.get(url)).raise_for_status().text


async def is_ready(serve: Serve, line: str = READY) -> None:
    await auntil(lambda: serve.says(line) or not serve.alive, 60, f"it says {line!r}")
    assert serve.alive, serve.log.read_text()


async def time_passes(registry: HeldReads) -> None:
    """Wait until the held process has tried twice more."""
    tried = registry.held
    await auntil(lambda: registry.held > tried + 1, 30, "the process polls again")


async def test_the_ready_line_waits_for_the_process_that_reads_the_workers_last(
    registry: HeldReads, tmp_path: Path
) -> None:
    words = ("--engine", "simulated", "--model", "demo", "--name", "demo")
    async with serving(tmp_path, registry.port, *words) as serve:
        await is_ready(serve, "demo  ready after")
        await is_ready(serve, "listening")
        await time_passes(registry)
        assert not serve.says(READY)
        registry.released.set()
        await is_ready(serve)
        metrics = await text(f"{serve.url}/metrics")
        assert re.findall(r'vllama_worker_up\{process="(\d)",worker="demo"\} 1', metrics) == ["0", "1", "2"]
        pages = await asyncio.gather(*(text(f"{serve.url}/api/tags") for _ in range(24)))
        assert all("demo:latest" in page for page in pages)


async def test_without_workers_the_ready_line_waits_until_every_process_has_read_the_registry(
    registry: HeldReads, tmp_path: Path
) -> None:
    async with serving(tmp_path, registry.port) as serve:
        await is_ready(serve, "listening")
        await time_passes(registry)
        assert not serve.says(READY)
        registry.released.set()
        await is_ready(serve)
