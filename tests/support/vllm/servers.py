"""Real vLLM servers, started on demand and shared by tests."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.support.ports import free_ports
from tests.support.processes import GroupGuard, process_group
from tests.support.until import until
from vllama_pool.workers.process.lifeline import die_with_parent

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
}
"""Small, offline, without compilation (ten seconds per first request), and not all bound to the first core."""


@dataclass(frozen=True)
class Spec:
    name: str
    folder: Path
    flags: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


class VllmServer:
    """A running server. It has no process if the caller did not start it."""

    def __init__(self, spec: Spec, url: str, process: subprocess.Popen[bytes] | None, log: Path | None) -> None:
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
        return self.process is None or self.process.poll() is None

    def engine(self) -> psutil.Process:
        assert self.process is not None
        return engine_of(psutil.Process(self.process.pid))

    def log(self) -> str:
        """Return the end of the log."""
        return self._log.read_text(errors="replace")[-3000:] if self._log is not None else ""

    def stop(self) -> None:
        """Stop the server and its children. Idempotent."""
        if self.process is None:
            return
        if self._guard is not None:
            self._guard.release()
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT)
        # The engine can outlive its server by seconds; both are in the server's process group.
        group = self.process.pid
        until(lambda: not _kill_group(group), STOP_TIMEOUT, f"the end of process group {group}")
        self.process.wait()


def engine_of(ancestor: psutil.Process) -> psutil.Process:
    """Return the engine among the descendants of a process."""
    children = ancestor.children(recursive=True)
    return next(child for child in children if "EngineCore" in " ".join(child.cmdline()) + child.name())


@contextlib.contextmanager
def frozen(engine: psutil.Process) -> Iterator[None]:
    """Stop an engine: meanwhile its server answers health checks, and its requests get no token."""
    engine.suspend()
    try:
        yield
    finally:
        engine.resume()


def start(command: Sequence[str], spec: Spec, logs: Path) -> VllmServer:
    """Start a server and wait until it is ready. Raises AssertionError with its log."""
    port = free_ports()
    log = Path(tempfile.mkdtemp(dir=logs)) / "vllm.log"
    line = [*command, "serve", str(spec.folder), "--served-model-name", spec.name]
    line += ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager", *spec.flags]
    with log.open("wb") as out:
        process = subprocess.Popen(
            line,
            env={**os.environ, **CI_ENVIRONMENT, **dict(spec.env)},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509  it takes no locks
        )
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

    def __init__(self, command: Callable[[], Sequence[str]], logs: Path, *, running: Sequence[str] = ()) -> None:
        self._command = command
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
            server = start(self._command(), spec, self._logs)
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
        raise AssertionError(f"vLLM with {server.model} ended with code {server.process and server.process.returncode}")
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
