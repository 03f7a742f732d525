"""`vllama serve` and an agent for each vLLM, as processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from tests.support.fleet.live import PATIENT_ENV
from tests.support.fleet.programs import VLLAMA, Program, Serve
from tests.support.until import until
from tests.support.vllm.servers import VllmServer

READY_TIMEOUT = 240.0


class OneSystem:
    """Runs one system at a time, and replaces it when the servers change."""

    def __init__(self, make_folder: Callable[[], Path]) -> None:
        self._make_folder = make_folder
        self._servers: tuple[str, ...] = ()
        self._url = ""
        self._running = ExitStack()

    def url(self, *servers: VllmServer) -> str:
        """Return the URL of a router over these servers."""
        urls = tuple(server.url for server in servers)
        if urls != self._servers:
            self._stop()
            self._url = self._running.enter_context(system(self._make_folder(), *servers))
            self._servers = urls
        return self._url

    def __enter__(self) -> OneSystem:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        self._servers = ()
        self._running.close()


@contextmanager
def system(folder: Path, *servers: VllmServer) -> Iterator[str]:
    """Yield the router's base URL once all workers are ready."""
    env = {"VLLAMA_STATE_DIR": str(folder / "state"), **PATIENT_ENV}
    serve = Serve([VLLAMA, "serve", "--port", "0"], env, folder / "serve.log")
    programs: list[Program] = [serve]
    try:
        until(lambda: serve.url or _ended(serve), READY_TIMEOUT, "the router to start")
        for server in servers:
            command = [VLLAMA, "worker", "--attach", server.url, "--name", server.model, *server.spec.flags]
            programs.append(Program(command, env, folder / f"{server.model}.log"))
        ready = {server.model: "ready" for server in servers}
        until(lambda: _states(serve.url) == ready, READY_TIMEOUT, "the workers to be ready", interval=0.1)
        yield serve.url
    finally:
        for program in reversed(programs):
            program.end()


def _states(url: str) -> dict[str, str]:
    page = httpx.get(f"{url}/admin/workers", trust_env=False, verify=False, timeout=60).json()
    return {worker["id"]: worker["state"] for worker in page["workers"]}


def _ended(program: Program) -> bool:
    if not program.alive:
        raise AssertionError(f"the router has ended; its log: {program.log.read_text(errors='replace')[-3000:]}")
    return False
