"""Models that may be without a worker (`scale.from_zero`), over real sockets."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from tests.support.fleet.live import Fleet, fleet
from tests.support.operations import REQUESTS, Request, error_text, is_whole
from tests.support.until import auntil
from vllama_pool.config.routing.table import RoutingTable, parse
from vllama_pool.workers.registry.record import WorkerState
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

QUICK = Options(model="tiny", tokens_per_second=5000, ttft=0.001, answer_tokens=8, slots=1, transcription=True)
EMBED = Options(model="tiny", embedding=True, slots=32)
BUSY = "server busy, please try again.  maximum pending requests exceeded"
CHAT = next(request for request in REQUESTS if str(request) == "/api/chat")
every = pytest.mark.parametrize("request_", REQUESTS, ids=map(str, REQUESTS))


def table(scale: str = "{from_zero: true, wait: 60s}", more: str = "") -> RoutingTable:
    return parse(f"models:\n  tiny: {{scale: {scale}{more}}}\n".encode())


async def ask(running: Fleet, request: Request = CHAT, **headers: str) -> httpx.Response:
    return await running.http.post(request.path, **request.content("tiny"), headers=headers)


async def until_waiting(running: Fleet, count: int) -> None:
    async def reached() -> bool:
        lines = (await running.http.get("/metrics")).text.splitlines()
        waiting = [float(line.split()[-1]) for line in lines if line.startswith('vllama_queue_waiting{model="tiny')]
        return (waiting or [0.0]) == [count]

    await auntil(reached, 15, f"{count} requests to wait")


async def leave(running: Fleet) -> None:
    """End the only worker as an agent does."""
    worker = running.workers["a"]
    await worker.fall_silent()
    await running.registry.deregister(worker.id, worker.record.generation)

    async def gone() -> bool:
        return not await running.states()

    await auntil(gone, 10, "the worker to be gone")


async def test_a_worker_that_joins_serves_those_that_wait_in_their_order(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": QUICK}, table=table()) as running:
        await leave(running)
        done: list[int] = []

        async def numbered(number: int) -> None:
            answer = await ask(running)
            assert answer.status_code == 200
            done.append(number)

        tasks = []
        for number in range(6):
            tasks.append(asyncio.create_task(numbered(number)))
            await until_waiting(running, number + 1)
        await running.workers["a"].join()
        await asyncio.gather(*tasks)
        assert done == sorted(done)
        assert running["a"].requests[CHAT.worker_path] == 6


@every
async def test_each_route_waits_for_the_first_worker(tmp_path: Path, request_: Request) -> None:
    async with fleet(tmp_path, {"a": EMBED if request_.embeds else QUICK}, table=table(), wait=False) as running:
        await leave(running)
        task = asyncio.create_task(ask(running, request_))
        await until_waiting(running, 1)
        await running.workers["a"].join()
        assert is_whole(request_, await task)


@every
async def test_the_end_of_the_wait_is_ollamas_503_in_the_format_of_the_api(tmp_path: Path, request_: Request) -> None:
    async with fleet(tmp_path, {}, table=table("{from_zero: true, wait: 100ms}")) as running:
        began = time.monotonic()
        busy = await ask(running, request_)
        assert (busy.status_code, error_text(request_, busy)) == (503, BUSY)
        assert int(busy.headers["retry-after"]) >= 5
        assert time.monotonic() - began >= 0.1
        await until_waiting(running, 0)


async def test_a_client_that_leaves_while_it_waits_never_reaches_a_worker(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": QUICK}, table=table()) as running:
        await leave(running)
        leaving = [asyncio.create_task(ask(running)) for _ in range(3)]
        await until_waiting(running, 3)
        for task in leaving:
            task.cancel()
        await until_waiting(running, 0)
        staying = asyncio.create_task(ask(running))
        await until_waiting(running, 1)
        await running.workers["a"].join()
        assert (await staying).status_code == 200
        assert running["a"].requests[CHAT.worker_path] == 1


async def test_without_the_key_an_unserved_model_is_answered_as_before(tmp_path: Path) -> None:
    async with fleet(tmp_path, {}, table=parse(b"models: {other: {scale: {from_zero: true}}, tiny: {}}\n")) as running:
        assert (await ask(running)).status_code == 503
        unknown = await running.http.post("/api/chat", json={"model": "unknown", "messages": []})
        assert unknown.status_code == 404
        tags = (await running.http.get("/api/tags")).json()["models"]
        assert [each["name"] for each in tags] == ["other:latest"]


async def test_the_model_is_listed_without_a_worker_and_later_with_what_is_known(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": QUICK}, table=table(), wait=False) as running:
        full = (await running.http.post("/api/show", json={"model": "tiny"})).json()
        await leave(running)
        (tag,) = (await running.http.get("/api/tags")).json()["models"]
        assert tag["name"] == "tiny:latest"
        assert (await running.http.post("/api/show", json={"model": "tiny"})).json() == full
        (listed,) = (await running.http.get("/v1/models")).json()["data"]
        assert listed["id"] == "tiny:latest"
        assert (await running.http.get("/v1/models/tiny")).status_code == 200
        assert (await running.http.get("/api/ps")).json() == {"models": []}


async def test_a_model_that_no_worker_has_served_yet_is_shown_with_unknown_details(tmp_path: Path) -> None:
    async with fleet(tmp_path, {}, table=table()) as running:
        shown = (await running.http.post("/api/show", json={"model": "tiny"})).json()
        assert shown["capabilities"] == ["completion"]
        assert shown["details"]["family"] == "unknown"


async def test_a_load_waits_for_a_worker_and_an_unload_does_not(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": QUICK}, table=table()) as running:
        await leave(running)
        unload = await running.http.post("/api/generate", json={"model": "tiny", "keep_alive": 0})
        assert unload.json()["done_reason"] == "unload"
        load = asyncio.create_task(running.http.post("/api/generate", json={"model": "tiny"}))
        await until_waiting(running, 1)
        await running.workers["a"].join()
        assert (await load).json()["done_reason"] == "load"
        assert running["a"].requests.total() == 0


async def test_what_a_model_cannot_do_is_refused_before_the_wait_if_it_is_known_and_else_after_it(
    tmp_path: Path,
) -> None:
    thinking = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "think": True}
    async with fleet(tmp_path, {"a": QUICK}, table=table(), wait=False) as running:
        await running.until_state("a", "ready")
        known = await running.http.post("/api/chat", json=thinking)
        assert known.status_code == 400
        await leave(running)
        assert (await running.http.post("/api/chat", json=thinking)).json() == known.json()


async def test_a_worker_that_starts_does_not_end_the_wait_before_it_is_ready(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": QUICK}, table=table()) as running:
        await leave(running)
        running.workers["a"].state = WorkerState.STARTING
        await running.workers["a"].join()
        await running.until_state("a", "starting")
        task = asyncio.create_task(ask(running))
        await until_waiting(running, 1)
        running.workers["a"].state = WorkerState.READY
        assert (await task).status_code == 200


async def test_a_fallback_answers_at_once_while_the_model_has_no_worker(tmp_path: Path) -> None:
    other = Options(model="other", tokens_per_second=5000, ttft=0.001, answer_tokens=8)
    async with fleet(tmp_path, {"b": other}, table=table(more=", fallback: [other]")) as running:
        answer = await ask(running)
        assert answer.status_code == 200
        assert running["b"].requests[CHAT.worker_path] == 1


async def test_operators_see_the_requests_that_wait(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": QUICK}, table=table()) as running:
        await leave(running)
        tasks = [asyncio.create_task(ask(running)) for _ in range(2)]
        await until_waiting(running, 2)
        page = (await running.http.get("/admin/workers")).json()
        assert page["waiting"] == [{"model": "tiny", "requests": 2, "absent": True}]
        explained = (await running.http.get("/admin/explain", params={"model": "tiny"})).json()
        assert (explained["outcome"], explained["waiting"]) == ("waits", 2)
        ready = (await running.http.get("/readyz", params={"model": "tiny"})).json()
        assert ready["models"]["tiny:latest"]["waiting"] == 2
        assert 'vllama_model_wanted{model="tiny"} 1.0' in (await running.http.get("/metrics")).text
        await running.workers["a"].join()
        assert [answer.status_code for answer in await asyncio.gather(*tasks)] == [200, 200]
        assert (await running.http.get("/admin/workers")).json()["waiting"] == []


async def test_requests_that_wait_for_capacity_outlive_the_last_worker(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": QUICK, "b": QUICK}, table=parse(b"models: {tiny: {}}\n")) as running:
        running["a"].set_faults([faults.Freeze(seconds=600)])
        await running.workers["b"].drain()
        await running.until_state("b", "draining")
        tasks = [asyncio.create_task(ask(running)) for _ in range(6)]
        await until_waiting(running, 4)
        await running.workers["a"].fall_silent()
        await running.registry.deregister("a", 1)

        async def gone() -> bool:
            return "a" not in await running.states()

        await auntil(gone, 10, "the worker to be gone")
        assert (await ask(running)).status_code == 503, "a new request does not wait"
        assert not any(task.done() for task in tasks)
        running["a"].set_faults([faults.Freeze(seconds=0)])
        running.workers["b"].state = WorkerState.READY
        await running.workers["b"].join()
        answers = await asyncio.gather(*tasks)
        assert [answer.status_code for answer in answers] == [200] * 6


@pytest.mark.parametrize(
    ("leaves", "reason"), [(False, "its workers are out: 1 draining"), (True, "no worker serves it now")]
)
async def test_requests_that_wait_in_vain_for_a_worker_learn_why_there_is_none(
    tmp_path: Path, leaves: bool, reason: str
) -> None:
    frozen = Options(model="tiny", slots=1)
    async with fleet(tmp_path, {"a": frozen}, table=parse(b"models: {tiny: {limits: {wait: 8s}}}")) as running:
        running["a"].set_faults([faults.Freeze(seconds=60)])
        tasks = [asyncio.create_task(ask(running)) for _ in range(5)]
        await until_waiting(running, 3)
        await running.workers["a"].drain()
        if leaves:
            await running.workers["a"].fall_silent()
            await running.registry.deregister("a", 1)
        await auntil(lambda: sum(task.done() for task in tasks) == 3, 15, "the waiting ones to be refused")
        refused = [task.result() for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert [answer.status_code for answer in refused] == [503] * 3
    expected = {"error": f"no worker is available for model 'tiny': {reason}"}
    assert [answer.json() for answer in refused] == [expected] * 3
    assert all(int(answer.headers["retry-after"]) >= 5 for answer in refused)
