"""Shadow traffic over real sockets: copies reach the target, and clients notice nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.fleet.live import Fleet, fleet
from tests.support.operations import REQUESTS, Request, is_whole
from tests.support.until import auntil
from vllama_pool.config.routing.table import parse
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

TABLE = parse(
    b"""
models:
  tiny: {shadow: {model: shade, share: 1.0, limit: 10}}
  vectors: {shadow: {model: other-vectors, share: 1.0}}
"""
)
CHAT = Options(model="tiny", tokens_per_second=5000, ttft=0.001, answer_tokens=8, slots=32, transcription=True)
EMBED = Options(model="vectors", embedding=True, slots=32)
WORKERS = {
    "a": CHAT,
    "b": Options(model="shade", tokens_per_second=5000, ttft=0.001, answer_tokens=8, slots=32, transcription=True),
    "c": EMBED,
    "d": Options(model="other-vectors", embedding=True, slots=32),
}
every = pytest.mark.parametrize("request_", REQUESTS, ids=map(str, REQUESTS))
PLAIN = next(request for request in REQUESTS if str(request) == "/api/chat streamed")


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, WORKERS, table=TABLE) as running:
        yield running


async def ask(running: Fleet, request: Request, **headers: str) -> httpx.Response:
    content = request.content("vectors" if request.embeds else "tiny")
    return await running.http.post(request.path, **content, headers=headers)


async def in_flight(running: Fleet, worker: str) -> int:
    workers = (await running.http.get("/admin/workers")).json()["workers"]
    return next(int(each["in_flight"]) for each in workers if each["id"] == worker)


async def _has(running: Fleet, worker: str, count: int) -> bool:
    return await in_flight(running, worker) == count


async def counted(running: Fleet, name: str) -> float:
    lines = (await running.http.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"vllama_shadow_{name}"))


async def _is(running: Fleet, name: str, value: float) -> bool:
    return await counted(running, name) == value


@every
async def test_a_request_of_each_operation_is_copied_and_answered_as_without_a_shadow(
    running: Fleet, request_: Request
) -> None:
    assert is_whole(request_, await ask(running, request_, **{"x-request-id": "asked"}))
    await auntil(lambda: _is(running, "request_seconds_count", 1), 10, "the copy to be complete")
    assert (await counted(running, "sent_total"), await counted(running, "failed_total")) == (1, 0)
    assert (await running.record("asked"))["worker"] in ("a", "c")
    assert len(running.records()) == 1
    page = (await running.http.get("/metrics")).text
    requests = [line for line in page.splitlines() if line.startswith("vllama_requests_total")]
    assert sum(float(line.split()[-1]) for line in requests) == 1  # a copy is no request of a client


async def test_a_shadow_that_hangs_or_fails_changes_nothing_for_clients(running: Fleet) -> None:
    running["b"].set_faults([faults.Hang(paths=(PLAIN.worker_path,))])
    answers = await asyncio.gather(*(ask(running, PLAIN) for _ in range(30)))
    assert all(is_whole(PLAIN, answer) for answer in answers)
    assert await counted(running, "sent_total") == 10
    assert await counted(running, "skipped_total") == 20
    assert await in_flight(running, "b") == 10


async def test_a_request_that_is_refused_is_not_copied(tmp_path: Path) -> None:
    table = parse(b"models: {tiny: {limits: {concurrency: 1, queue: 0}, shadow: {model: shade, share: 1.0}}}")
    async with fleet(tmp_path, {name: WORKERS[name] for name in "ab"}, table=table) as running:
        running["a"].set_faults([faults.Hang(paths=(PLAIN.worker_path,))])
        task = asyncio.create_task(ask(running, PLAIN))
        await auntil(lambda: _is(running, "sent_total", 1), 10, "the first request to be copied")
        assert (await ask(running, PLAIN)).status_code == 503
        assert await counted(running, "sent_total") == 1
        task.cancel()


async def test_a_copy_ends_when_its_client_leaves(running: Fleet) -> None:
    for name in ("a", "b"):
        running[name].set_faults([faults.Hang(paths=(PLAIN.worker_path,))])
    task = asyncio.create_task(ask(running, PLAIN))
    await auntil(lambda: _has(running, "b", 1), 10, "the copy to be in progress")
    task.cancel()
    await auntil(lambda: _has(running, "b", 0), 10, "the copy to end")
    await auntil(lambda: _is(running, "stopped_total", 1), 10, "the copy to be counted")
