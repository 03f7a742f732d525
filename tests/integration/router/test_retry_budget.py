"""The retry budget of one `vllama serve`, whose processes share it. All workers, which are processes, fail."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.support.fleet.programs import Serve
from tests.support.until import until
from tests.support.vllm.simulated import SimulatedProcess
from vllama_pool.workers.simulated import faults

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="lifelines are Linux's")]

VLLAMA = (sys.executable, "-P", "-m", "vllama_pool.router.cli.main")
REQUESTS, CLIENTS = 150, 15
STATUSES = (500, 503, 429)
"""Of the workers."""
CHAT = "/v1/chat/completions"
Figures = Callable[[str, object], None]


def test_processes_of_a_router_send_a_fifth_more_attempts_and_three_if_all_workers_refuse(
    tmp_path: Path, record_property: Figures
) -> None:
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(SimulatedProcess()) for _ in STATUSES]
        file = tmp_path / "routing.yaml"
        lines = [f"  - {{name: w{number}, url: '{worker.url}'}}" for number, worker in enumerate(workers)]
        file.write_text("\n".join(["workers:", *lines, ""]))
        words = ["serve", "--port", "0", "--processes", "3", "--routing", str(file)]
        serve = Serve([*VLLAMA, *words], {"VLLAMA_STATE_DIR": str(tmp_path / "state")}, tmp_path / "log")
        stack.callback(serve.end)
        until(lambda: served(serve, 3), 60, "each process knows the workers")
        seen: list[int] = []
        until(lambda: at_rest(workers, seen), 60, "each process has asked for the workers' abilities", interval=1)
        for worker, status in zip(workers, STATUSES, strict=True):
            worker.set_faults([faults.Status(status=status)])
        statuses = asyncio.run(ask_all(serve.url))
        attempts = chats(workers) - seen[-1]

    record_property("figure", f"{STATUSES} from three workers: {REQUESTS} requests at 3 processes, {attempts} attempts")
    assert set(statuses) <= set(STATUSES)
    assert REQUESTS < attempts <= 1.2 * REQUESTS + 3


def chats(workers: list[SimulatedProcess]) -> int:
    """Return the chats that the workers have received."""
    return sum(worker.stats()["requests"].get(CHAT, 0) for worker in workers)


def at_rest(workers: list[SimulatedProcess], seen: list[int]) -> bool:
    """Return True if the number of chats is that of the latest two calls. `seen`: those so far."""
    seen.append(chats(workers))
    return len(seen) > 2 and seen[-3] == seen[-2] == seen[-1] > 0


def served(serve: Serve, workers: int) -> bool:
    """Return True if many new connections, which any process may accept, find all workers."""
    assert serve.alive, serve.log.read_text()
    if not serve.url:
        return False
    with contextlib.suppress(httpx.HTTPError):
        for _ in range(20):
            page = httpx.get(f"{serve.url}/admin/workers", trust_env=False, verify=False, timeout=60).json()["workers"]
            if sum(worker["state"] == "ready" for worker in page) < workers:
                return False
        return True
    return False


async def ask_all(url: str) -> list[int]:
    """Send each request on a connection of its own, and return the statuses."""
    gate = asyncio.Semaphore(CLIENTS)
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}

    async def ask() -> int:
        async with gate, httpx.AsyncClient(trust_env=False, verify=False, timeout=60) as http:
            return (await http.post(f"{url}/api/chat", json=body)).status_code

    return await asyncio.gather(*(ask() for _ in range(REQUESTS)))
