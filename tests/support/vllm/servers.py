"""Real vLLM servers, started on demand and shared by tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.support.ports import free_ports
from tests.support.processes import GroupGuard, is_alive, process_group, runs, tree
from tests.support.until import until
from vllama_pool.workers.process.lifeline import die_with_parent

ROOT = Path(__file__).resolve().parents[3]
START_TIMEOUT = 420.0
STOP_TIMEOUT = 20.0
ANSWER_TIMEOUT = 300.0
"""Seconds for a client of a router over it: a test on a busy machine fails for its answer, not for the wait."""
CI_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
"""Small, offline, without compilation (ten seconds per first request), not all bound to the first core, and with the
model in the process of the engine instead of a third one."""
Launch = Callable[[Sequence[str], Mapping[str, str], Path], psutil.Process]
"""(arguments of vLLM, further environment, log) -> the process, which leads its group"""


@dataclass(frozen=True)
class Spec:
    name: str
    folder: Path
    flags: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


class VllmServer:
    """A running server. It has no process if the caller did not start it."""

    def __init__(self, spec: Spec, url: str, process: psutil.Process | None, log: Path | None) -> None:
        self.spec = spec
        self.url = url
        self.process = process
        self._log = log
        # While it loads, vLLM may survive the SIGTERM that it gets when the tests are killed.
        self._guard = GroupGuard(process.pid) if process is not None else None

    @property
    def model(self) -> str:
        return self.spec.name

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def alive(self) -> bool:
        return self.process is None or is_alive(self.process)

    def engine(self) -> psutil.Process:
        assert self.process is not None
        return engine_of(self.process)

    def log(self) -> str:
        """Return the end of the log."""
        return self._log.read_text(errors="replace")[-3000:] if self._log is not None else ""

    def stop(self) -> None:
        """Stop the server and its children. Idempotent."""
        if self.process is None:
            return
        if self._guard is not None:
            self._guard.release()
        with contextlib.suppress(psutil.Error):
            self.process.terminate()
            self.process.wait(STOP_TIMEOUT)
        # The engine can outlive its server by seconds; both are in the server's process group.
        group = self.process.pid
        until(lambda: not _kill_group(group), STOP_TIMEOUT, f"the end of process group {group}")
        self.process.wait()


def engine_of(ancestor: psutil.Process) -> psutil.Process:
    """Return the engine among the descendants of a process."""
    return next(child for child in tree(ancestor) if runs(child, "EngineCore"))


@contextlib.contextmanager
def frozen(engine: psutil.Process) -> Iterator[None]:
    """Stop an engine: meanwhile its server answers health checks, and its requests get no token."""
    engine.suspend()
    try:
        yield
    finally:
        engine.resume()


def spawn(command: Sequence[str]) -> Launch:
    """Return a launch of this program."""

    def launch(arguments: Sequence[str], env: Mapping[str, str], log: Path) -> psutil.Process:
        with log.open("wb") as out:
            return psutil.Popen(
                [*command, *arguments],
                env={**os.environ, **CI_ENVIRONMENT, **env},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGTERM),
            )

    return launch


class PreparedProcess:
    """Launches servers by forks of one process that has imported vLLM. See `prepared_process`.

    `python`: vLLM's interpreter. The process starts with the first server.
    """

    def __init__(self, python: Callable[[], Path]) -> None:
        self._python = python
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, arguments: Sequence[str], env: Mapping[str, str], log: Path) -> psutil.Process:
        """Raises OSError or ValueError if the process has ended."""
        if self._process is None:
            self._process = subprocess.Popen(
                [self._python(), "-m", "tests.support.vllm.prepared_process"],
                cwd=ROOT,
                env={**os.environ, **CI_ENVIRONMENT},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509  it takes no locks
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"argv": ["vllm", *arguments], "env": dict(env), "log": str(log)}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return psutil.Process(int(self._process.stdout.readline()))

    def stop(self) -> None:
        """End the process, of which a server that is left gets SIGTERM. Idempotent."""
        if self._process is not None:
            with self._process:
                self._process.kill()


def start(launch: Launch, spec: Spec, logs: Path) -> VllmServer:
    """Start a server and wait until it is ready. Raises AssertionError with its log."""
    port = free_ports()
    log = Path(tempfile.mkdtemp(dir=logs)) / "vllm.log"
    arguments = ["serve", str(spec.folder), "--served-model-name", spec.name]
    arguments += ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager", *spec.flags]
    process = launch(arguments, dict(spec.env), log)
    scheme = "https" if "--ssl-certfile" in spec.flags else "http"
    server = VllmServer(spec, f"{scheme}://127.0.0.1:{port}", process, log)
    try:
        until(lambda: _is_ready(server), START_TIMEOUT, f"vLLM with {spec.name}", interval=0.2)
    except AssertionError as error:
        server.stop()
        raise AssertionError(f"{error}\n{server.log()}") from None
    return server


class Servers:
    """Starts each server when it is first used, and keeps it until `stop`.

    `running`: URLs of other servers, used if they serve the model.
    """

    def __init__(self, launch: Launch, logs: Path, *, running: Sequence[str] = ()) -> None:
        self._launch = launch
        self._logs = logs
        self._running = running
        self._alive: dict[Spec, VllmServer] = {}

    def get(self, spec: Spec, *, own: bool = False) -> VllmServer:
        """Return a ready server. `own`: one that may be killed."""
        if not own and (found := self._find(spec)) is not None:
            return found
        server = self._alive.pop(spec, None)
        if server is not None and not server.alive:
            server.stop()
            server = None
        if server is None:
            server = start(self._launch, spec, self._logs)
        self._alive[spec] = server
        return server

    def stop(self) -> None:
        for server in self._alive.values():
            server.stop()
        self._alive.clear()

    def _find(self, spec: Spec) -> VllmServer | None:
        for url in self._running:
            models = httpx.get(f"{url}/v1/models", trust_env=False).json()["data"]
            if models[0]["id"] == spec.name:
                return VllmServer(spec, url.rstrip("/"), None, None)
        return None


def _is_ready(server: VllmServer) -> bool:
    if not server.alive:
        raise AssertionError(f"vLLM with {server.model} ended")
    try:
        return httpx.get(f"{server.url}/health", trust_env=False, verify=False, timeout=2.0).status_code == 200
    except httpx.TransportError:
        return False


def _kill_group(group: int) -> bool:
    """Kill a process group. Returns False once it has no living process."""
    if not process_group(group):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    return True
