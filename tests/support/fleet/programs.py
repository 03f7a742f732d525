"""`vllama` commands run as programs of their own, with everything that they start."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from deploy.local.package_managers import ROOT
from tests.support.processes import is_alive, tree, words_of
from tests.support.until import until
from vllama_pool.workers.process.lifeline import die_with_parent

STOP_TIMEOUT = 90.0
MARK = "TEST_RUN_OF_VLLAMA"
VLLAMA = str(ROOT / ".venv" / "bin" / "vllama")

Json = dict[str, Any]


class Program:
    """A running `vllama` command. Its children are found by descent, and by a mark in their environment."""

    def __init__(self, words: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.log = log
        self._mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self._seen: set[psutil.Process] = set()
        with log.open("ab") as out:
            self._popen = subprocess.Popen(
                words,
                env={**clean_environ(), **env, MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_prepare_child(),  # noqa: PLW1509  it takes no locks
            )
        self.process = psutil.Process(self._popen.pid)

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def says(self, text: str) -> bool:
        return text in self.log.read_text(errors="replace")

    def descendants(self) -> list[psutil.Process]:
        """Return its present children and theirs."""
        found = tree(self.process)
        self._seen.update(found)
        return found

    def find(self, *words: str) -> psutil.Process | None:
        """Return the nearest descendant with all these words on its command line."""
        return next((one for one in self.descendants() if _has(one, words)), None)

    def signal(self, number: signal.Signals) -> None:
        self.descendants()
        self._popen.send_signal(number)

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        return self._popen.wait(timeout)

    def left(self) -> list[str]:
        """Return the processes that still run, itself included."""
        marked = {one for one in psutil.process_iter() if self._is_marked(one)}
        return sorted(str(one) for one in self._seen | marked | {self.process} if is_alive(one))

    def end(self) -> None:
        """Stop it in any state. Raises AssertionError if a process remains."""
        if self.alive:
            self.signal(signal.SIGTERM)
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
        self.wait_gone(15)

    def wait_gone(self, timeout: float) -> None:
        """Raises AssertionError with the processes that remain."""
        try:
            until(lambda: not self.left(), timeout, interval=0.1)
        except AssertionError:
            raise AssertionError(f"after {timeout:g} s there still are {self.left()}") from None

    def _is_marked(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error, OSError):
            return process.environ().get(MARK) == self._mark
        return False


def _prepare_child() -> Callable[[], None]:
    """Return a preexec function: the child dies with us and receives SIGINT, which background jobs ignore."""
    tie = die_with_parent(signal.SIGTERM)

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        tie()

    return prepare


def clean_environ() -> dict[str, str]:
    ours = ("VLLAMA_", "OLLAMA_", "REDIS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _has(process: psutil.Process, words: Sequence[str]) -> bool:
    """Return True if all these words, or files of these names, are on its command line, which some join into one."""
    line = " ".join(words_of(process)).split()
    return all(any(part == word or part.endswith(f"/{word}") for part in line) for word in words)


class Serve(Program):
    """`vllama serve`."""

    @property
    def url(self) -> str:
        """Its base URL, or "" until it listens."""
        found = re.search(r"^router +(http://\S+)", self.log.read_text(errors="replace"), re.MULTILINE)
        return found[1] if found else ""

    def agent(self, worker: str) -> psutil.Process:
        """Return the agent of one of its workers."""
        found = self.find("vllama_pool.router.cli.main", worker)
        assert found is not None, f"{worker} has no agent"
        return found

    def vllm(self, worker: str) -> psutil.Process:
        """Return the vLLM server of one of its workers, which leads a process group."""
        guardian = next(one for one in self.agent(worker).children() if _has(one, ["guardian.py"]))
        return guardian.children()[0]

    def times_ready(self, worker: str) -> int:
        """Return how often a worker became ready."""
        return len(re.findall(rf"^worker +{worker}  ready after", self.log.read_text(errors="replace"), re.MULTILINE))

    @property
    def valkey(self) -> psutil.Process | None:
        return self.find("valkey-server")

    def request(self, name: str) -> Json:
        """Wait for the log line of a request, and return it."""
        until(lambda: name in self.requests(), 5, f"request {name} is logged")
        return self.requests()[name]

    def requests(self) -> dict[str, Json]:
        """Return the log lines of requests by request id."""
        lines = self.log.read_text(errors="replace").splitlines(keepends=True)
        records = [json.loads(line) for line in lines if '"event":"request"' in line and line.endswith("\n")]
        return {record["id"]: record for record in records}
