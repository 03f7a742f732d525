"""The fleet of `make run` over real vLLM: `vllama serve` with two workers, and a `vllama worker` of its own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from deploy.local.package_managers import ROOT
from deploy.local.run import CHAT_MODEL, plan_launch
from tests.support.fleet.programs import VLLAMA, Json, Program, Serve, clean_environ
from tests.support.ports import free_ports
from tests.support.until import until
from vllama_pool.router.cli.commands.worker_groups import AND

MODEL = CHAT_MODEL
PLAIN = "tiny-plain"
"""The model without a chat template."""
SLOTS = 8
"""Slots of each SmolLM2 worker."""
WAIT = 10
"""Seconds that a request for the model without a template may wait for a worker: less than the usual time."""
FORKING = ROOT / "tests" / "support" / "vllm" / "forking.py"
READY_TIMEOUT = 400.0
"""Seconds for three vLLMs that load side by side on two busy cores."""


WORKERS = ("smollm2-0", "smollm2-1", "plain")


class MainJob:
    """`vllama serve` with two workers for SmolLM2, and `vllama worker` with a model that cannot chat.

    The worker starts first, before the router and the registry. `whole` restarts what a test has stopped.
    """

    def __init__(self, folder: Path, plain: Path) -> None:
        self._folder = folder
        self.plain = plain
        self.state_dir = folder / "state"
        self.serve: Serve | None = None
        self.worker: Program | None = None
        self.seconds: list[float] = []
        """Duration of each start until all workers were ready."""

    def whole(self, workers: Sequence[str] = WORKERS) -> Fleet:
        """Start again whatever has ended, and wait until these workers are ready."""
        begun, starting = time.monotonic(), self.serve is None
        if self.worker is None or ("plain" in workers and not self.worker.alive):
            self.worker = Program(self._worker_words(), self._env, self._folder / "worker.log")
            worker = self.worker
            until(lambda: worker.says("loading"), 30, "the worker begins to load")
        if self.serve is None or not self.serve.alive:
            self.serve = self._start_serve()
        fleet = Fleet(self.serve, self.worker, self)
        until(lambda: self._looks_whole(fleet, workers), READY_TIMEOUT, "all workers are ready", interval=0.25)
        if starting:
            self.seconds.append(time.monotonic() - begun)
        return fleet

    def second_serve(self, *words: str) -> Serve:
        """Start another `vllama serve` with the same state directory."""
        command = [VLLAMA, "serve", "--port", "0", "--vllm-port", str(free_ports()), *words]
        return Serve(command, self._env, self._folder / "second.log")

    def end(self) -> None:
        for program in (self.serve, self.worker):
            if program is not None:
                program.end()

    def tail(self) -> str:
        """Return the ends of the logs."""
        logs = sorted(self._folder.glob("*.log")) + sorted(self.state_dir.glob("logs/*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}" for log in logs)

    @property
    def _env(self) -> dict[str, str]:
        launch = plan_launch((), os.cpu_count() or 1, "", "0")
        forking = shlex.join([str(Path(launch.env["VLLAMA_VLLM"]).with_name("python")), str(FORKING)])
        return {**launch.env, "VLLAMA_VLLM": forking, "OMP_NUM_THREADS": "1", "VLLAMA_STATE_DIR": str(self.state_dir)}

    def _start_serve(self) -> Serve:
        routing = self._folder / "routing.yaml"
        routing.write_text(f"models: {{{PLAIN}: {{limits: {{wait: {WAIT}s}}}}}}\n")
        more = ["--vllm-port", str(free_ports(2)), "--routing", str(routing)]
        launch = plan_launch((), os.cpu_count() or 1, "", "0", more)
        chat = launch.argv[: launch.argv.index(AND)]  # without the embedding worker, so that three vLLMs run
        return Serve(chat, self._env, self._folder / f"serve-{len(self.seconds)}.log")

    def _worker_words(self) -> list[str]:
        words = [VLLAMA, "worker", "--model", str(self.plain), "--name", "plain", "--port", str(free_ports())]
        return [*words, "--enforce-eager", "--max-num-seqs", str(SLOTS)]

    def _looks_whole(self, fleet: Fleet, workers: Sequence[str]) -> bool:
        assert self.serve is not None
        if not self.serve.alive or ("plain" in workers and not fleet.worker.alive):
            raise AssertionError(f"it ended:\n{self.tail()}")
        states = fleet.states()
        return bool(fleet.url) and all(states.get(worker) == "ready" for worker in workers)


@dataclass
class Fleet:
    """A running fleet."""

    serve: Serve
    worker: Program
    job: MainJob

    @property
    def url(self) -> str:
        return self.serve.url

    def get(self, path: str) -> Any:
        return httpx.get(f"{self.url}{path}", trust_env=False, timeout=60).raise_for_status().json()

    def workers(self) -> dict[str, Json]:
        """Return the workers of `GET /admin/workers` by id."""
        return {worker["id"]: worker for worker in self.get("/admin/workers")["workers"]}

    def states(self) -> dict[str, str]:
        try:
            return {name: worker["state"] for name, worker in self.workers().items()}
        except httpx.HTTPError:
            return {}

    def queued(self, model: str = MODEL) -> int:
        """Return the requests for a model that wait in the router."""
        page = httpx.get(f"{self.url}/metrics", trust_env=False, timeout=60).raise_for_status().text
        found = re.search(rf'^vllama_queue_waiting\{{model="{model}"\}} (\S+)', page, re.MULTILINE)
        return int(float(found[1])) if found else 0

    def table(self) -> str:
        """Return the output of `vllama ps`."""
        words = [VLLAMA, "ps", "--url", self.url]
        return subprocess.run(words, capture_output=True, text=True, timeout=120, env=clean_environ()).stdout

    def row(self, worker: str) -> str:
        """Return the line of one worker in `vllama ps`."""
        return next((line for line in self.table().splitlines() if line.split()[:1] == [worker]), "")
