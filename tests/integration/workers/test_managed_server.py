"""A hosted server: that it is ours, and how long it is given to end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.ports import free_ports
from tests.support.until import auntil
from tests.support.vllm.model_folder import write_model
from tests.support.vllm.simulated import COMMAND, IGNORE_SIGTERM
from vllama_pool.workers.agent.command_line import Address
from vllama_pool.workers.agent.managed_server import GaveUp, Launch, ManagedServer, Ready
from vllama_pool.workers.agent.monitor import Monitor
from vllama_pool.workers.registry.record import LoadReport, WorkerState
from vllama_pool.workers.vllm.flags import Flags


class Events:
    def __init__(self) -> None:
        self.server: Ready | None = None
        self.changes: list[tuple[WorkerState, str]] = []
        self.loads: list[LoadReport] = []

    def ready(self, server: Ready, after: float) -> None:
        self.server = server

    def changed(self, state: WorkerState, note: str) -> None:
        self.changes.append((state, note))


@asynccontextmanager
async def hosted(
    tmp_path: Path, *flags: str, name: str = "tiny"
) -> AsyncIterator[tuple[ManagedServer, Events, asyncio.Task[None]]]:
    """A server that takes no notice of SIGTERM, and is killed 0.2 s after it; it is asked to be called "tiny"."""
    model, port = str(write_model(tmp_path / "tiny")), free_ports()
    serve = (*COMMAND, "serve", model, "--port", str(port), "--served-model-name", name)
    command, env = (*serve, *IGNORE_SIGTERM, *flags), {"VLLM_SERVER_DEV_MODE": "1"}
    address = Address("127.0.0.1", "127.0.0.1", port)
    launch = Launch(command, env, address, tmp_path / "log", model, Flags(()))
    events = Events()
    async with httpx.AsyncClient(trust_env=False, timeout=1) as client:
        server = ManagedServer(launch, client, Monitor(client, events.loads.append), events, stop_grace=0.2)
        serving = asyncio.create_task(server.serve())
        try:
            yield server, events, serving
        finally:
            serving.cancel()
            await asyncio.wait([serving])
            await server.kill()


async def end(server: ManagedServer, serving: asyncio.Task[None]) -> float:
    """Drain and stop it as an agent does, with a minute for running requests; the seconds that took."""
    serving.cancel()
    await asyncio.wait([serving])
    begun = time.monotonic()
    await server.drain(begun + 60)
    await server.stop(60)
    return time.monotonic() - begun


async def test_an_idle_server_is_stopped_at_once(tmp_path: Path) -> None:
    async with hosted(tmp_path) as (server, events, serving):
        await auntil(lambda: events.server, 10, "it is ready")
        assert await end(server, serving) < 10


async def test_a_server_that_still_loads_is_stopped_at_once(tmp_path: Path) -> None:
    async with hosted(tmp_path, "--startup", "60") as (server, _, serving):
        await auntil(lambda: server._process is not None and server._process.pid, 10, "it loads")
        assert await end(server, serving) < 10


async def test_another_server_on_the_port_is_recognised(tmp_path: Path) -> None:
    async with hosted(tmp_path, name="other") as (_, events, serving):
        with pytest.raises(GaveUp, match=r"answered by another server, which serves other"):
            await asyncio.wait_for(asyncio.shield(serving), 10)
        assert events.server is None


async def test_a_sleeping_server_stays_sleeping_and_is_not_restarted(tmp_path: Path) -> None:
    async with hosted(tmp_path) as (server, events, _), httpx.AsyncClient(trust_env=False) as client:
        await auntil(lambda: events.server, 10, "it is ready")
        assert server._process is not None
        pid = server._process.pid
        await client.post(f"{events.server.url if events.server else ''}/sleep")
        await auntil(lambda: events.loads[-1].state is WorkerState.SLEEPING, 10, "it sleeps")
        first = len(events.loads)
        await auntil(lambda: len(events.loads) >= first + 4, 10, "it was polled four times more")
        assert {load.state for load in events.loads[first:]} == {WorkerState.SLEEPING}
        assert (events.changes, server._process.pid) == ([], pid)
