"""A whole system over running vLLMs: `vllama serve`, and an agent beside each of them, as programs of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.fleet.main_job import VLLAMA, Program, Serve
from tests.support.until import until
from tests.support.vllm.servers import VllmServer

READY_TIMEOUT = 60.0


@contextmanager
def system(folder: Path, *servers: VllmServer) -> Iterator[str]:
    """Yields the router's base URL once all workers are ready. Agents are given the servers' flags."""
    env = {"VLLAMA_STATE_DIR": str(folder / "state")}
    serve = Serve([VLLAMA, "serve", "--port", "0"], env, folder / "serve.log")
    programs: list[Program] = [serve]
    try:
        until(lambda: serve.url or _ended(serve), READY_TIMEOUT, "the router to start")
        for server in servers:
            words = [VLLAMA, "worker", "--attach", server.url, "--name", server.model, *server.spec.flags]
            programs.append(Program(words, env, folder / f"{server.model}.log"))
        wanted = {server.model: "ready" for server in servers}
        until(lambda: _states(serve.url) == wanted, READY_TIMEOUT, "the workers to be ready", interval=0.1)
        yield serve.url
    finally:
        for program in reversed(programs):
            program.end()


def _states(url: str) -> dict[str, str]:
    page = httpx.get(f"{url}/admin/workers", trust_env=False, timeout=10).json()
    return {worker["id"]: worker["state"] for worker in page["workers"]}


def _ended(program: Program) -> bool:
    if not program.alive:
        raise AssertionError(f"it has ended; it wrote: {program.log.read_text(errors='replace')[-3000:]}")
    return False
