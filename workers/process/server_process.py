"""Run one vLLM server under a guardian (guardian.py), which kills its process tree when it or this process ends."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vllama_pool.workers.process import guardian
from vllama_pool.workers.process.lifeline import signal_name

POLL_INTERVAL = 0.25
"""Seconds between readiness polls."""
KEPT_LOGS = 5
TAIL_BYTES = 64 << 10


class ProcessState(enum.StrEnum):
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    ENDED = "ended"


class StartFailed(Exception):
    """The message is one line."""


class ProcessEnded(Exception):
    """The server ended while a caller waited for it."""

    def __init__(self, exit: ExitStatus) -> None:
        super().__init__(str(exit))
        self.exit = exit


@dataclass(frozen=True, slots=True)
class ExitStatus:
    code: int | None
    """Negative for a signal, None if unknown."""

    def __str__(self) -> str:
        if self.code is None:
            return "unknown exit code"
        return f"exit code {self.code}" if self.code >= 0 else signal_name(-self.code)


class ServerProcess:
    """One start of a server. After `start`, any task may call the methods."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.command = tuple(command)
        self.log = log
        self.pid = 0
        """Pid of the server and of its process group."""
        self.state = ProcessState.STARTING
        self._env = dict(env)
        self._died: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        self._exit: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises StartFailed if the program does not exist or is not executable."""
        ours, theirs = socket.socketpair()
        guardian_process: asyncio.subprocess.Process | None = None
        try:
            with theirs, self.log.open("ab", buffering=0) as output:
                guardian_process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", guardian.__file__, str(theirs.fileno()), *self.command),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=self._env,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            reader, self._writer = await asyncio.open_connection(sock=ours)
            word, _, rest = (await reader.readline()).decode().strip().partition(" ")
            if word != "pid":
                await guardian_process.wait()
                raise StartFailed(rest or "its guardian died at once")
        except BaseException:
            ours.close()  # the guardian reads end of file and stops
            if self._writer is not None:
                self._writer.close()
            if guardian_process is None or guardian_process.returncode is not None:
                self._finish(ExitStatus(None))
            else:
                self._task = asyncio.create_task(self._abandon(guardian_process))
            raise
        self.pid = int(rest)
        self._task = asyncio.create_task(self._read_guardian(reader, guardian_process))

    async def wait_ready(self, is_ready: Callable[[], Awaitable[bool]]) -> None:
        """Poll `is_ready`. Raises ProcessEnded if the server ends first."""
        while True:
            if self._died.done():
                raise ProcessEnded(await self.wait())
            if await is_ready() and not self._died.done():
                break
            await self.died_within(POLL_INTERVAL)
        if self.state is ProcessState.STARTING:
            self.state = ProcessState.READY

    async def wait(self) -> ExitStatus:
        """Wait until the whole process tree is gone."""
        return await asyncio.shield(self._exit)

    async def died_within(self, seconds: float) -> ExitStatus | None:
        """Wait for the server itself; its tree may outlive it."""
        await asyncio.wait([self._died], timeout=seconds)
        return self._died.result() if self._died.done() else None

    async def stop(self, grace: float) -> ExitStatus:
        """Send SIGTERM, and SIGKILL to the whole tree after `grace` seconds; 0 kills at once.

        A later call may shorten the grace.
        """
        if not self._exit.done() and self._writer is not None:
            self.state = ProcessState.STOPPING
            with contextlib.suppress(ConnectionError):
                self._writer.write(f"stop {grace:g}\n".encode() if grace > 0 else b"kill\n")
                await self._writer.drain()
        return await self.wait()

    @property
    def alive(self) -> bool:
        return not self._died.done()

    async def _read_guardian(self, reader: asyncio.StreamReader, guardian_process: asyncio.subprocess.Process) -> None:
        """Wait for the `end` line. If the guardian dies without one, sweep the process group."""
        assert self._writer is not None
        code: int | None = None
        try:
            while line := await reader.readline():
                word, _, rest = line.decode().strip().partition(" ")
                if word == "died":
                    self._died.set_result(ExitStatus(int(rest)))
                elif word == "end":
                    code = int(rest)
        except ConnectionError:
            pass
        await guardian_process.wait()
        if code is None:
            await asyncio.to_thread(guardian.sweep, self.pid)
        self._writer.close()
        self._finish(ExitStatus(code))

    async def _abandon(self, guardian_process: asyncio.subprocess.Process) -> None:
        await guardian_process.wait()
        self._finish(ExitStatus(None))

    def _finish(self, exit: ExitStatus) -> None:
        self.state = ProcessState.ENDED
        for future in (self._died, self._exit):
            if not future.done():
                future.set_result(exit)


def rotate(log: Path, keep: int = KEPT_LOGS) -> None:
    """Rename x.log to x.log.1, and so on; delete the oldest. Raises OSError."""
    log.parent.mkdir(parents=True, exist_ok=True)
    for number in range(keep - 1, -1, -1):
        old = log if number == 0 else log.with_name(f"{log.name}.{number}")
        if old.exists():
            old.replace(log.with_name(f"{log.name}.{number + 1}"))


def tail(log: Path, size: int = TAIL_BYTES) -> str:
    """Return "" if the log cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
