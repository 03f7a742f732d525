"""A hosted server of its own: how long it is given to end."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil

from tests.support import fakevllm
from tests.support.modelfolder import write_model
from tests.support.until import auntil
from tests.support.valkey import free_port
from workers.flags import Flags
from workers.hosting import Hosted, Launch, Ready
from workers.launch import Address
from workers.monitor import Monitor
from workers.record import WorkerState


class Events:
    def __init__(self) -> None:
        self.server: Ready | None = None

    def ready(self, server: Ready, after: float) -> None:
        self.server = server

    def changed(self, state: WorkerState, note: str) -> None:
        pass


@asynccontextmanager
async def deaf(tmp_path: Path, *flags: str, ready: bool = True) -> AsyncIterator[Hosted]:
    """A server that takes no notice of SIGTERM, and is killed 0.2 s after it."""
    model, port = str(write_model(tmp_path / "tiny")), free_port()
    command = (sys.executable, fakevllm.__file__, "serve", model, "--port", str(port), "--fake-deaf", *flags)
    launch = Launch(command, {}, Address("127.0.0.1", "127.0.0.1", port), tmp_path / "log", model, Flags(()))
    events = Events()
    async with httpx.AsyncClient(trust_env=False, timeout=1) as client:
        hosted = Hosted(launch, client, Monitor(client, lambda load: None), events, stop_grace=0.2)
        serving = asyncio.create_task(hosted.serve())
        try:
            await auntil(lambda: events.server if ready else is_started(port), 10, "it has come so far")
            serving.cancel()
            await asyncio.wait([serving])
            yield hosted
        finally:
            serving.cancel()
            await hosted.kill()


def is_started(port: int) -> bool:
    """Whether a server for that port is a child of ours' child, the guardian."""
    guardians = psutil.Process().children()
    return any(str(port) in child.cmdline() for guardian in guardians for child in guardian.children())


async def test_an_idle_server_is_not_given_the_time_of_requests_that_do_not_run(tmp_path: Path) -> None:
    async with deaf(tmp_path) as hosted:
        begun = time.monotonic()
        await hosted.drain(begun + 60)
        await hosted.stop(60)
        assert time.monotonic() - begun < 10


async def test_nor_is_one_that_still_loads(tmp_path: Path) -> None:
    async with deaf(tmp_path, "--fake-startup", "60", ready=False) as hosted:
        begun = time.monotonic()
        await hosted.drain(begun + 60)
        await hosted.stop(60)
        assert time.monotonic() - begun < 10
