"""ManagedServer with a fake vLLM process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.support.ports import free_ports
from tests.support.until import auntil
from tests.support.vllm.model_folder import write_model
from tests.support.vllm.simulated import COMMAND, IGNORE_SIGTERM
from vllama_pool.workers.agent.command_line import Address
from vllama_pool.workers.agent.managed_server import GaveUp, ManagedServer, ServerInfo, ServerSpec
from vllama_pool.workers.agent.monitor import Monitor
from vllama_pool.workers.registry.record import LoadReport, WorkerState


@dataclass
class Events:
    server: ServerInfo | None = None
    changes: list[tuple[WorkerState, str]] = field(default_factory=list)
    loads: list[LoadReport] = field(default_factory=list)

    def ready(self, server: ServerInfo, after: float) -> None:
        self.server = server

    def changed(self, state: WorkerState, note: str) -> None:
        self.changes.append((state, note))


@dataclass
class Case:
    url: str
    server: ManagedServer
    events: Events
    serving: asyncio.Task[None]

    async def stop_with_grace(self) -> float:
        """Drain and stop with a minute for running requests, as an agent does. Return the seconds that took."""
        self.serving.cancel()
        await asyncio.wait([self.serving])
        started = time.monotonic()
        await self.server.drain(started + 60)
        await self.server.stop(60)
        return time.monotonic() - started


@asynccontextmanager
async def managed(tmp_path: Path, *flags: str, name: str = "tiny") -> AsyncIterator[Case]:
    """Run a vLLM that is expected to serve "tiny", ignores SIGTERM, and gets SIGKILL 0.2 s later."""
    model, port = str(write_model(tmp_path / "tiny")), free_ports()
    serve = (*COMMAND, "serve", model, "--port", str(port), "--served-model-name", name)
    command, env = (*serve, *IGNORE_SIGTERM, *flags), {"VLLM_SERVER_DEV_MODE": "1"}
    address, events = Address("127.0.0.1", "127.0.0.1", port), Events()
    spec = ServerSpec(command, env, address, tmp_path / "log", ("tiny",), describe=lambda observed: ())
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=20) as client:
        server = ManagedServer(spec, client, Monitor(client, events.loads.append), events, stop_grace=0.2)
        serving = asyncio.create_task(server.serve())
        try:
            yield Case(address.local_url, server, events, serving)
        finally:
            serving.cancel()
            await asyncio.wait([serving])
            await server.kill()


async def test_an_idle_server_is_stopped_without_waiting_for_the_grace(tmp_path: Path) -> None:
    async with managed(tmp_path) as case:
        await auntil(lambda: case.events.server, 10, "it is ready")
        assert await case.stop_with_grace() < 30


async def test_a_loading_server_is_stopped_without_waiting_for_the_grace(tmp_path: Path) -> None:
    async with managed(tmp_path, "--startup", "60") as case:
        await auntil((tmp_path / "log").exists, 10, "it loads")
        assert await case.stop_with_grace() < 30


async def test_another_server_on_the_port_is_an_error(tmp_path: Path) -> None:
    async with managed(tmp_path, name="other") as case:
        with pytest.raises(GaveUp, match=r"answered by another server, which serves other"):
            await asyncio.wait_for(asyncio.shield(case.serving), 30)
        assert case.events.server is None


async def test_a_sleeping_server_stays_sleeping_and_is_not_restarted(tmp_path: Path) -> None:
    async with managed(tmp_path) as case, httpx.AsyncClient(trust_env=False, verify=False, timeout=60) as client:
        events = case.events
        await auntil(lambda: events.server, 10, "it is ready")
        started = events.server
        await client.post(f"{case.url}/sleep")
        await auntil(lambda: events.loads[-1].state is WorkerState.SLEEPING, 10, "it sleeps")
        first = len(events.loads)
        await auntil(lambda: len(events.loads) >= first + 4, 10, "it was polled four times more")
        assert {load.state for load in events.loads[first:]} == {WorkerState.SLEEPING}
        assert (events.changes, events.server) == ([], started)
