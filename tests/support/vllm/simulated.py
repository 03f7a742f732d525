"""Simulated workers, in the event loop or as processes.

    async with workers(Options(speed=2.0), Options(speed=0.5)) as (fast, slow):
        fast.set_faults([faults.Cut(after_tokens=3)])
        assert fast.running == 0

    with SimulatedProcess("--speed", "2") as worker:
        worker.set_faults([faults.Status(status=503, count=1)])
        worker.kill()

Agents start `COMMAND`, or `failing` for a worker that does not start.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import httpx
import msgspec

from tests.support.until import until
from vllama_pool.workers.process.lifeline import die_with_parent
from vllama_pool.workers.simulated import Options, Simulated, faults

ROOT = Path(__file__).resolve().parents[3]
FAST = Options(model="m", tokens_per_second=1000.0, ttft=0.0)
"""For tests that do not measure time."""
START_TIMEOUT = 60.0
PATIENCE = 60.0
"""Seconds for an answer of a worker's process, or its end."""
COMMAND = (sys.executable, "-m", "vllama_pool.workers.simulated")
IGNORE_SIGTERM = ("--fault", '{"kind": "ignoresigterm"}')


def failing(error: str, *, if_exists: Path | None = None) -> tuple[str, ...]:
    """Return the command of a worker that exits with code 1 and a traceback, always or while a file exists."""
    fail = f"printf '%s\\n' 'Traceback (most recent call last):' {shlex.quote(error)} >&2; exit 1"
    if if_exists is None:
        return ("sh", "-c", fail)
    run = f'exec {shlex.join(COMMAND)} "$@"'
    return ("sh", "-c", f"if [ -e {shlex.quote(str(if_exists))} ]; then {fail}; fi; {run}", "vllm")


@contextlib.asynccontextmanager
async def workers(*options: Options) -> AsyncIterator[tuple[Simulated, ...]]:
    """Run one simulated worker per options, by default a fast one."""
    async with contextlib.AsyncExitStack() as stack:
        started = [await stack.enter_async_context(Simulated(each)) for each in options or (FAST,)]
        yield tuple(started)


class SimulatedProcess:
    """A simulated worker as a process, which dies with this one."""

    def __init__(self, *flags: str, model: str = "m", env: dict[str, str] | None = None) -> None:
        self._resources = contextlib.ExitStack()
        self._log = Path(self._resources.enter_context(tempfile.TemporaryDirectory())) / "log"
        command = [*COMMAND, model, "--port", "0", *flags]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **(env or {})},
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509  it takes no locks
            )
        try:
            self.url = until(self._find_url, START_TIMEOUT, "the simulated worker's start")
        except AssertionError as error:
            output = self.output
            self.stop()
            raise AssertionError(f"{error}; it wrote: {output}") from None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stats(self) -> dict[str, Any]:
        """Return its counters."""
        found: dict[str, Any] = httpx.get(
            f"{self.url}/simulated/stats", trust_env=False, verify=False, timeout=PATIENCE
        ).json()
        return found

    def set_faults(self, faults: Iterable[faults.Fault]) -> None:
        body = msgspec.json.encode(list(faults))
        httpx.post(
            f"{self.url}/simulated/faults", content=body, trust_env=False, verify=False, timeout=PATIENCE
        ).raise_for_status()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self.wait()

    def wait(self, timeout: float = PATIENCE) -> int:
        """Return the exit code. Raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout)

    def stop(self) -> None:
        """Kill it if it runs. Idempotent."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._resources.close()

    def __enter__(self) -> SimulatedProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def output(self) -> str:
        return self._log.read_text()

    def _find_url(self) -> str:
        found = re.search(r"^Simulated worker .* at (http://\S+),", self.output, re.MULTILINE)
        if found is None and self._process.poll() is not None:
            raise AssertionError(f"exit code {self._process.returncode}")
        return found[1] if found else ""
