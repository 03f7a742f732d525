"""Starts a router, waits until it answers, and measures scenarios on it."""

from __future__ import annotations

import http.client
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.contenders import Contender
from tests.bench.processes import (
    ROUTER_CORE,
    cpu_seconds,
    descendants,
    machine_busy,
    memory_bytes,
    serving,
    start,
    stop,
)
from tests.bench.programs import CannotMeasure
from tests.bench.rig import KEY, LOOPBACK, Rig, finish, fleet
from tests.bench.samples import Sample, sample
from tests.bench.scenarios import WARM_UP, Answers, Scenario
from tests.support.ports import free_ports

START_LIMIT = 60.0
"""Seconds."""
PAUSE = 0.05
"""Seconds between two attempts."""


@dataclass(frozen=True, slots=True)
class Router:
    contender: Contender
    port: int
    process: subprocess.Popen[bytes]
    helpers: tuple[int, ...]
    """Processes of the benchmark that work for it."""
    state_dir: Path | None

    @property
    def serving(self) -> list[int]:
        return serving(self.process.pid)

    @property
    def registry(self) -> list[int]:
        return [pid for pid in descendants(self.process.pid) if pid not in self.serving]

    @property
    def all(self) -> list[int]:
        return [self.process.pid, *descendants(self.process.pid)]


@contextmanager
def running(
    contender: Contender, rig: Rig, *, workers: int = 1, models: int = 1, limit: float = START_LIMIT
) -> Iterator[Router]:
    """Run a router over the fake vLLM. Raises CannotMeasure with the end of its log if it does not answer."""
    folder = rig.folder / contender.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    port = free_ports(2)
    launch = contender.launch(port, rig.url, folder)
    with ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("wb"))
        process = start(launch.command, ROUTER_CORE, env=launch.env, cwd=launch.cwd, stdout=log)
        stack.callback(stop, process)
        helpers: tuple[int, ...] = ()
        if launch.state_dir is not None:
            _wait(process, folder, limit, lambda: _status(port, "GET", "/") == 200)
            helpers = (stack.enter_context(fleet(launch.state_dir, rig.port, workers, models)),)
        rig.set_answers(Answers(4))
        body = contender.api.request(stream=False)
        _wait(process, folder, limit, lambda: _status(port, "POST", contender.api.path, body) == 200)
        yield Router(contender, port, process, helpers, launch.state_dir)


def _wait(process: subprocess.Popen[bytes], folder: Path, limit: float, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + limit
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            log = (folder / "log").read_text(errors="replace")[-2000:]
            raise CannotMeasure(f"{folder.name} does not answer; see its log, {folder / 'log'}:\n{log}")
        time.sleep(PAUSE)


def _status(port: int, method: str, path: str, body: bytes = b"") -> int:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    try:
        return status(connection, method, path, body)
    finally:
        connection.close()


def status(connection: http.client.HTTPConnection, method: str, path: str, body: bytes = b"") -> int:
    """Return the status of one request, or 0 without an answer."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        response.read()
        return response.status
    except (OSError, http.client.HTTPException):
        return 0


class Watch:
    """Counts the CPU time of other programs from its creation on: all but this process and `pids`."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = [*pids, os.getpid()]
        self._begin = time.monotonic()
        self._before = self._others(self._pids)

    def _others(self, pids: Iterable[int]) -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)  # ended children, such as load generators
        return machine_busy() - cpu_seconds(pids) - usage.ru_utime - usage.ru_stime

    def other(self, started: Iterable[int] = ()) -> float:
        """Return the cores that other programs used. `started`: processes of ours that began meanwhile."""
        return max(0.0, self._others([*self._pids, *started]) - self._before) / (time.monotonic() - self._begin)


def watch_beside(router: Router, rig: Rig) -> Watch:
    return Watch([*router.all, rig.vllm.pid, *router.helpers])


def warm_up(router: Router, rig: Rig) -> None:
    for scenario in WARM_UP:
        rig.set_answers(scenario.answers)
        finish(rig.start_load(scenario, router.port, router.contender.api))


def measure(router: Router, rig: Rig, scenario: Scenario) -> Sample:
    """Run one scenario. A load that fails is part of the sample."""
    rig.set_answers(scenario.answers)
    pids, watch = router.serving, watch_beside(router, rig)
    memory, cpu = memory_bytes(pids), cpu_seconds(pids)
    load = rig.start_load(scenario, router.port, router.contender.api)
    if scenario.open_after:
        time.sleep(scenario.open_after)
    memory = memory_bytes(pids) - memory
    result = finish(load)
    cpu = cpu_seconds(pids) - cpu
    return sample(router.contender.name, scenario, result, cpu=cpu, memory=memory, other=watch.other())
