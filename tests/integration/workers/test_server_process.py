"""ServerProcess and its guardian with real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.ports import free_ports
from tests.support.processes import is_alive, process_group
from tests.support.until import until
from tests.support.vllm.simulated import COMMAND, IGNORE_SIGTERM, failing
from vllama_pool.workers.process import guardian
from vllama_pool.workers.process.server_process import (
    ExitStatus,
    ProcessEnded,
    ProcessState,
    ServerProcess,
    StartFailed,
    rotate,
    tail,
)
from vllama_pool.workers.vllm.probe import Health, check_health, http_client


@pytest.fixture
def port() -> int:
    return free_ports()


@pytest.fixture
def command(port: int) -> list[str]:
    return [*COMMAND, "serve", "tiny", "--port", str(port), "--engine-process"]


def healthy(client: httpx.AsyncClient, port: int) -> Callable[[], Awaitable[bool]]:
    async def is_ready() -> bool:
        return await check_health(client, f"http://127.0.0.1:{port}") is Health.OK

    return is_ready


async def ready(command: list[str], port: int, log: Path) -> ServerProcess:
    run = ServerProcess(command, os.environ, log)
    await run.start()
    async with http_client() as client:
        await run.wait_ready(healthy(client, port))
    return run


async def test_a_server_is_started_ready_and_stopped(command: list[str], port: int, tmp_path: Path) -> None:
    run = await ready(command, port, tmp_path / "log")
    assert run.state is ProcessState.READY
    assert run.alive
    assert len(process_group(run.pid)) == 2
    exit = await run.stop(10)
    assert exit == ExitStatus(0)
    assert run.state is ProcessState.ENDED
    assert not run.alive
    assert process_group(run.pid) == []
    assert await run.stop(10) == exit


async def test_a_server_that_ignores_sigterm_is_killed(command: list[str], port: int, tmp_path: Path) -> None:
    run = await ready([*command, *IGNORE_SIGTERM], port, tmp_path / "log")
    assert await run.stop(0.2) == ExitStatus(-signal.SIGKILL)
    assert process_group(run.pid) == []


async def test_the_engine_of_a_killed_server_is_killed_too(command: list[str], port: int, tmp_path: Path) -> None:
    run = await ready(command, port, tmp_path / "log")
    os.kill(run.pid, signal.SIGKILL)
    assert str(await run.wait()) == "SIGKILL"
    assert process_group(run.pid) == []


async def test_a_frozen_server_can_be_stopped(command: list[str], port: int, tmp_path: Path) -> None:
    run = await ready(command, port, tmp_path / "log")
    os.kill(run.pid, signal.SIGSTOP)
    assert await run.stop(0.2) == ExitStatus(-signal.SIGKILL)
    assert process_group(run.pid) == []


async def test_no_process_survives_a_killed_guardian(command: list[str], port: int, tmp_path: Path) -> None:
    run = await ready(command, port, tmp_path / "log")
    guardian_pid = psutil.Process(run.pid).ppid()
    assert guardian_pid != os.getpid()
    os.kill(guardian_pid, signal.SIGKILL)
    assert await run.wait() == ExitStatus(None)
    assert process_group(run.pid) == []


async def test_the_log_of_a_server_that_dies_at_start_has_its_error(port: int, tmp_path: Path) -> None:
    run = ServerProcess(failing("ValueError: no such model"), os.environ, tmp_path / "log")
    await run.start()
    async with http_client() as client:
        with pytest.raises(ProcessEnded) as ended:
            await run.wait_ready(healthy(client, port))
    assert ended.value.exit == ExitStatus(1)
    assert "ValueError: no such model" in tail(run.log)


async def test_a_missing_program_is_a_start_failure(tmp_path: Path) -> None:
    run = ServerProcess(["/nowhere/vllm", "serve"], {}, tmp_path / "log")
    with pytest.raises(StartFailed, match="/nowhere/vllm: No such file or directory"):
        await run.start()
    assert not run.alive
    assert await run.wait() == ExitStatus(None)


OWNER = """
import asyncio, os, sys
from pathlib import Path
from vllama_pool.workers.process.server_process import ServerProcess

async def main():
    run = ServerProcess(sys.argv[2:], os.environ, Path(sys.argv[1]))
    await run.start()
    print(run.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_no_process_survives_a_cancelled_start(command: list[str], port: int, tmp_path: Path) -> None:
    me = psutil.Process()
    before = set(me.children(recursive=True))
    for turns in range(0, 40, 4):
        run = ServerProcess(command, os.environ, tmp_path / "log")
        task = asyncio.create_task(run.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
            await run.stop(0)
        if turns:  # else it was not begun
            async with asyncio.timeout(30):
                await run.wait()
            assert run.state is ProcessState.ENDED
        assert set(me.children(recursive=True)) <= before


@pytest.fixture
def owner(command: list[str], tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process that runs a server, deaf to SIGTERM; and the server's process group."""
    args = [sys.executable, "-c", OWNER, str(tmp_path / "log"), *command, *IGNORE_SIGTERM]
    with subprocess.Popen(args, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        yield process, pid
        process.kill()
    until(lambda: not process_group(pid), 10)


def test_no_process_survives_a_killed_owner(owner: tuple[subprocess.Popen[str], int], port: int) -> None:
    process, pid = owner
    until(lambda: listening(port), 10)
    guardian = psutil.Process(pid).parent()
    assert guardian is not None
    assert len(process_group(pid)) == 2
    process.kill()
    until(lambda: not process_group(pid), 6, "the server's group is gone")
    until(lambda: not is_alive(guardian), 10, "the guardian is gone")


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("group", [0, 1, -1])
def test_sweeping_a_foreign_group_is_an_error(group: int) -> None:
    with pytest.raises(ValueError, match="not a process group of this guardian"):
        guardian.sweep(group)


def test_a_sweep_spares_everything_outside_the_group() -> None:
    with subprocess.Popen(["sleep", "60"], process_group=0) as swept, subprocess.Popen(["sleep", "60"]) as spared:
        killed: list[int] = []
        guardian.sweep(swept.pid, reap=lambda: killed.append(swept.poll() or 0))
        assert swept.wait(5) == -signal.SIGKILL
        assert spared.poll() is None
        spared.kill()


def test_rotation_keeps_the_last_logs(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "w.log"
    for number in range(8):
        rotate(log, keep=3)
        log.write_text(str(number))
    assert sorted(path.name for path in log.parent.iterdir()) == ["w.log", "w.log.1", "w.log.2", "w.log.3"]
    assert (log.read_text(), log.with_name("w.log.3").read_text()) == ("7", "4")


def test_the_tail_of_a_log_decodes_any_bytes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail(log) == ""
    log.write_bytes(b"x" * 100 + b"\xff end")
    assert tail(log, 6) == "x� end"
