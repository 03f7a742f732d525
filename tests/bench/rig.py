"""The fake vLLM, the load generator and the workers in the registry, all beside the router's core."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.apis import Api
from tests.bench.fleet import worker_url
from tests.bench.processes import RIG_CORE, start, stop
from tests.bench.programs import SOURCES, CannotMeasure, Programs
from tests.bench.scenarios import Answers, Scenario
from tests.support.ports import free_ports

KEY = "bench"
"""API key of every request. Peers pass it on."""
LOOPBACK = "127.0.0.1"
ROOT = SOURCES.parents[1]


@dataclass(frozen=True, slots=True)
class Load:
    """The measurements of one load generator. Times are in microseconds."""

    seconds: float
    done: int
    errors: int
    refused: int
    """Answers with another status than 200."""
    tokens: int
    chunks: int
    first_p50: int
    first_p99: int
    token_p50: int
    token_p99: int
    gap_p50: int
    gap_p99: int
    """Between two tokens of a stream."""
    request_p50: int
    request_p99: int


@dataclass(frozen=True, slots=True)
class Rig:
    programs: Programs
    folder: Path
    port: int
    """Of the fake vLLM."""
    vllm: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """The first worker."""
        return worker_url(0, self.port)

    def set_answers(self, answers: Answers) -> int:
        """Return the number of tokens that were streamed so far."""
        assert self.vllm.stdin is not None
        assert self.vllm.stdout is not None
        self.vllm.stdin.write(answers.line().encode())
        self.vllm.stdin.flush()
        match self.vllm.stdout.readline().split():
            case [b"ok", tokens]:
                return int(tokens)
        raise CannotMeasure("the fake vLLM has ended; see its message above")

    def start_load(self, scenario: Scenario, port: int, api: Api, address: str = LOOPBACK) -> subprocess.Popen[bytes]:
        body = self.folder / "request.json"
        body.write_bytes(api.request(stream=scenario.stream))
        step = self.port if scenario.answers.stepped else 0
        numbers = map(str, (scenario.connections, scenario.requests, scenario.spread, scenario.limit))
        target = (str(self.programs.load), address, str(port), api.path, str(body))
        command = (*target, *numbers, f"Bearer {KEY}", str(step))
        return start(command, RIG_CORE)


def finish(load: subprocess.Popen[bytes]) -> Load:
    """Wait for a load generator. Raises CannotMeasure if it failed."""
    output, _ = load.communicate()
    if load.returncode != 0:
        raise CannotMeasure(f"the load generator failed with status {load.returncode}; see its message above")
    return Load(**json.loads(output))


@contextmanager
def rig(programs: Programs, folder: Path, addresses: int = 1) -> Iterator[Rig]:
    """Run the fake vLLM on as many addresses as there are workers."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_ports()
    command = [str(programs.fake_vllm), str(port), str(addresses)]
    vllm = start(command, RIG_CORE, stdin=subprocess.PIPE)
    try:
        yield Rig(programs, folder, port, vllm)
    finally:
        stop(vllm)


@contextmanager
def fleet(state_dir: Path, port: int, workers: int = 1, models: int = 1, first: int = 0) -> Iterator[int]:
    """Register workers and keep them alive. Yields the process's id when all are registered."""
    numbers = map(str, (port, workers, models, first))
    command = [sys.executable, "-m", "tests.bench.fleet", str(state_dir), *numbers]
    process = start(command, RIG_CORE, cwd=ROOT, stdin=subprocess.PIPE)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise CannotMeasure("the workers could not be registered; see the message above")
        yield process.pid
    finally:
        stop(process)
