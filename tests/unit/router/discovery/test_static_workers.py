"""The static workers of one routing table after another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support.until import auntil
from vllama_pool.config.routing.schema import WorkerEntry
from vllama_pool.router.balance.lease import ABANDONED
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.discovery.static_workers import StaticWorkers
from vllama_pool.router.discovery.trust import Endpoints


def at(host: str, name: str, **fields: Any) -> WorkerEntry:
    return WorkerEntry(url=f"http://{host}:8000", name=name, **fields)


A, B = at("10.0.0.1", "a", slots=4), at("10.0.0.2", "b", slots=4)


class Machines:
    """Several vLLM servers behind one httpx client."""

    def __init__(self) -> None:
        self.frozen: set[str] = set()
        self.probes: list[str] = []
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))

    async def answer(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        if request.url.path == "/health":
            self.probes.append(host)
        if host in self.frozen:
            await asyncio.Event().wait()
        match request.url.path:
            case "/health":
                return httpx.Response(200)
            case "/v1/models":
                return httpx.Response(200, json={"data": [{"id": "m", "root": "org/m", "max_model_len": 2048}]})
            case "/metrics":
                return httpx.Response(200, text="vllm:num_requests_running 0.0\n")
        return httpx.Response(404)


@pytest.fixture
def machines() -> Machines:
    return Machines()


@pytest.fixture
def pool() -> Pool:
    return Pool(time.monotonic)


@pytest.fixture
async def static(machines: Machines, pool: Pool) -> AsyncIterator[StaticWorkers]:
    """A and B, running and up."""
    workers = StaticWorkers([A, B], pool, machines.client, Endpoints(None))
    running = asyncio.create_task(workers.run())
    try:
        await auntil(lambda: up(pool) == {"a", "b"})
        yield workers
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def up(pool: Pool) -> set[str]:
    return {worker.id.removeprefix("static/") for worker in pool if worker.serving and not worker.down}


async def forgotten(static: StaticWorkers) -> None:
    await auntil(lambda: repr(static).endswith(" 0 leaving>"))


def test_workers_are_known_before_they_are_probed(machines: Machines) -> None:
    pool = Pool(lambda: 0.0)
    StaticWorkers([A], pool, machines.client, Endpoints(None))
    assert [worker.id for worker in pool] == ["static/a"]
    assert up(pool) == set()


async def test_unchanged_workers_keep_their_health_requests_and_place(static: StaticWorkers, pool: Pool) -> None:
    before = list(pool)
    lease = pool.lease(before[0], "m")
    version = pool.version
    for _ in range(3):
        static.apply([B, A])
    await forgotten(static)
    assert list(pool) == before
    assert (before[0].in_flight, pool.version) == (1, version)
    assert up(pool) == {"a", "b"}
    lease.release(ABANDONED)


async def test_changed_slots_and_tags_apply_without_a_probe(static: StaticWorkers, pool: Pool) -> None:
    before = pool.get("static/a")
    assert before is not None
    lease = pool.lease(before, "m")
    static.apply([at("10.0.0.1", "a", slots=9, tags=("zone-2",)), B])
    after = pool.get("static/a")
    assert after is before
    assert (after.slots, after.record.tags, after.in_flight) == (9, ("zone-2",), 1)
    assert up(pool) == {"a", "b"}
    lease.release(ABANDONED)


async def test_a_removed_worker_leaves_while_its_requests_finish(
    static: StaticWorkers, pool: Pool, machines: Machines
) -> None:
    worker = pool.get("static/a")
    assert worker is not None
    lease = pool.lease(worker, "m")
    static.apply([B])
    await auntil(lambda: pool.get("static/a") is None)
    assert pool.in_flight == 1
    lease.release(ABANDONED)
    assert pool.in_flight == 0
    await forgotten(static)
    machines.probes.clear()
    await auntil(lambda: "10.0.0.2" in machines.probes)
    assert "10.0.0.1" not in machines.probes


async def test_an_added_worker_is_probed_at_once(static: StaticWorkers, pool: Pool) -> None:
    static.apply([A, B, at("10.0.0.3", "c")])
    assert pool.get("static/c") is not None
    await auntil(lambda: up(pool) == {"a", "b", "c"}, 0.9)


@pytest.mark.parametrize("name", ["a", "moved"])
async def test_a_worker_that_moves_leaves_no_gap(static: StaticWorkers, pool: Pool, name: str) -> None:
    """Under its old name or a new one, the group always has a worker that serves."""
    static.apply([A])
    await auntil(lambda: up(pool) == {"a"})
    await forgotten(static)
    static.apply([at("10.0.0.9", name)])

    def moved() -> bool:
        assert up(pool)
        return [worker.record.url for worker in pool] == ["http://10.0.0.9:8000"] and up(pool) == {name}

    await auntil(moved, interval=0)


async def test_a_worker_that_moves_starts_with_new_health(static: StaticWorkers, pool: Pool) -> None:
    worker = pool.get("static/a")
    assert worker is not None
    generation = worker.record.generation
    static.apply([at("10.0.0.9", "a"), B])
    await auntil(lambda: worker.record.generation > generation)
    assert worker.endpoint.host == "10.0.0.9"


async def test_a_frozen_new_worker_does_not_keep_the_old_one(
    static: StaticWorkers, pool: Pool, machines: Machines
) -> None:
    machines.frozen.add("10.0.0.9")
    static.apply([at("10.0.0.9", "a"), B])
    await forgotten(static)
    assert up(pool) == {"b"}
    worker = pool.get("static/a")
    assert worker is not None
    assert worker.last_report.note == "not reached yet"


def changes_of_mind() -> list[list[WorkerEntry]]:
    moved = [at(f"10.0.1.{number}", "a") for number in range(4)]
    return [[B], [A, B], [], [A], [B, A], *([worker, B] for worker in moved), [A, B]]


async def test_many_changes_of_mind_end_at_the_last(static: StaticWorkers, pool: Pool) -> None:
    tasks = len(asyncio.all_tasks())
    for workers in changes_of_mind():
        static.apply(workers)
    await forgotten(static)
    await auntil(lambda: up(pool) == {"a", "b"})
    assert {worker.record.url for worker in pool} == {A.url, B.url}
    await auntil(lambda: len(asyncio.all_tasks()) <= tasks)


async def test_tables_applied_before_the_start_count(machines: Machines, pool: Pool) -> None:
    workers = StaticWorkers([A], pool, machines.client, Endpoints(None))
    workers.apply([B])
    running = asyncio.create_task(workers.run())
    await auntil(lambda: up(pool) == {"b"} and len(pool) == 1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
