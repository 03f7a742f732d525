"""Worker agents as processes over simulated workers, and their records in the registry."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.until import auntil
from tests.support.vllm.simulated import COMMAND
from vllama_pool.workers.process.lifeline import die_with_parent
from vllama_pool.workers.registry.client import Registry, RegistryUnavailable
from vllama_pool.workers.registry.record import LoadReport, WorkerRecord, WorkerState
from vllama_pool.workers.registry.signature import verify_record

INTERVAL = 0.05
"""Seconds between two polls."""


@dataclass
class AgentProcess:
    """`vllama worker` as a process. `lines` is its output."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)

    def says(self, words: str) -> bool:
        return any(words in line for line in self.lines)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def exit_code(self, timeout: float = 60.0) -> int:
        """`timeout`: seconds, of which a busy machine needs several."""
        return await asyncio.wait_for(self.process.wait(), timeout)


@asynccontextmanager
async def agent(
    *args: str, state_dir: Path, env: Mapping[str, str] | None = None, program: Sequence[str] = COMMAND
) -> AsyncIterator[AgentProcess]:
    """Run `vllama worker ARGS`, and kill it at the end. It stops if the tests are killed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VLLAMA_", "OLLAMA_", "REDIS"))}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vllama_pool.router.cli.main", "worker", *args),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**kept, "VLLAMA_STATE_DIR": str(state_dir), "VLLAMA_VLLM": shlex.join(program), **(env or {})},
        preexec_fn=die_with_parent(signal.SIGTERM),
    )
    running = AgentProcess(process)
    reading = asyncio.create_task(_read(process.stdout, running.lines))
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await reading


async def _read(stream: asyncio.StreamReader | None, lines: list[str]) -> None:
    assert stream is not None
    async for line in stream:
        lines.append(line.decode().rstrip())


@dataclass
class RegistryEntry:
    """A worker in the registry."""

    record: WorkerRecord
    load: LoadReport


async def registered(registry: Registry, worker_id: str, secret: bytes | None = None) -> RegistryEntry | None:
    snapshot = await registry.snapshot()
    if not snapshot.records or worker_id not in snapshot.records or worker_id not in snapshot.beats:
        return None
    envelope = snapshot.records[worker_id]
    record = verify_record(
        envelope, worker_id=worker_id, fleet=registry.fleet, secret=secret, allow_unsigned=secret is None
    )
    return RegistryEntry(record, snapshot.beats[worker_id].load)


async def wait_for(
    registry: Registry,
    worker_id: str,
    state: WorkerState,
    timeout: float = 15.0,
    *,
    restarts: int | None = None,
    secret: bytes | None = None,
) -> RegistryEntry:
    """Wait until the worker is in this state, and was restarted this often if given."""

    async def check() -> RegistryEntry | None:
        with contextlib.suppress(RegistryUnavailable):  # for a moment, on a busy machine
            found = await registered(registry, worker_id, secret)
            if found is not None and found.load.state is state and restarts in (None, found.load.restarts):
                return found
        return None

    found = await auntil(check, timeout, f"{worker_id} to be {state}", interval=INTERVAL)
    assert found is not None
    return found


async def wait_gone(registry: Registry, worker_id: str, timeout: float = 15.0) -> None:
    async def check() -> bool:
        return await registered(registry, worker_id) is None

    await auntil(check, timeout, f"{worker_id} to leave", interval=INTERVAL)
