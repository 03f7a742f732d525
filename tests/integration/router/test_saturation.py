"""More requests than the workers have slots, over real sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from tests.support.fleet.live import Fleet, fleet
from tests.support.until import auntil
from vllama_pool.config.api_keys import digest
from vllama_pool.config.routing.table import parse
from vllama_pool.workers.registry.record import WorkerState
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

QUICK = Options(model="tiny", tokens_per_second=200, ttft=0.001, answer_tokens=4, slots=4)
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": False}
MOST = 5
"""Requests that such a worker gets: its slots and a tenth more."""
BUSY = {"error": "server busy, please try again.  maximum pending requests exceeded"}
WORKER_PATH = "/v1/chat/completions"
HANGS = [faults.Hang(paths=(WORKER_PATH,))]


async def ask(running: Fleet, key: str = "") -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return await running.http.post("/api/chat", json=CHAT, headers=headers)


async def gauge(running: Fleet, name: str) -> float:
    lines = (await running.http.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{"))


async def until_gauge(running: Fleet, name: str, value: float) -> None:
    async def reached() -> bool:
        return await gauge(running, name) == value

    await auntil(reached, 15, f"{name} to be {value}")


async def test_requests_wait_in_the_router_and_all_are_answered(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": QUICK, "b": QUICK}) as running:
        answers = await asyncio.gather(*(ask(running) for _ in range(80)))
        assert {answer.status_code for answer in answers} == {200}
        assert await gauge(running, "vllama_queue_waiting") == 0
        assert await gauge(running, "vllama_queue_seconds_count") >= 1  # many come when others have ended


async def test_a_full_queue_refuses_with_ollamas_text_and_the_time_to_drain(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": QUICK}, max_queue=3) as running:
        running["a"].set_faults(HANGS)
        waiting = [asyncio.create_task(ask(running)) for _ in range(MOST + 3)]
        await until_gauge(running, "vllama_queue_waiting", 3)
        refused = await ask(running)
        assert (refused.status_code, refused.json()) == (503, BUSY)
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert await gauge(running, "vllama_queue_refused_total") == 1
        assert running["a"].requests[WORKER_PATH] == MOST
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        await until_gauge(running, "vllama_queue_waiting", 0)


async def test_requests_that_wait_go_to_a_worker_that_joins(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": QUICK, "b": QUICK}) as running:
        await running.workers["b"].drain()
        await running.until_state("b", "draining")
        running["a"].set_faults(HANGS)
        tasks = [asyncio.create_task(ask(running)) for _ in range(MOST + 10)]
        await until_gauge(running, "vllama_queue_waiting", 10)
        running.workers["b"].state = WorkerState.READY
        await running.workers["b"].join()
        await auntil(lambda: sum(task.done() for task in tasks) == 10, 15, "those that waited to be answered")
        assert {task.result().status_code for task in tasks if task.done()} == {200}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_a_thousand_clients_that_leave_the_queue_reach_no_worker(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": QUICK}, max_queue=2000) as running:
        running["a"].set_faults(HANGS)
        limits = httpx.Limits(max_connections=1100)
        async with httpx.AsyncClient(
            base_url=running.url, timeout=60, trust_env=False, verify=False, limits=limits
        ) as http:
            served, waiting = [], []
            for tasks, count, name in (
                (served, MOST, "vllama_worker_in_flight"),
                (waiting, 1000, "vllama_queue_waiting"),
            ):
                tasks += [asyncio.create_task(http.post("/api/chat", json=CHAT)) for _ in range(count)]
                await until_gauge(running, name, count)
            for tasks in (waiting, served):  # the places get free when the waiting clients have just left
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
        await until_gauge(running, "vllama_queue_waiting", 0)
        await until_gauge(running, "vllama_worker_in_flight", 0)
        assert running["a"].requests[WORKER_PATH] == MOST
        running["a"].set_faults([])
        assert (await ask(running)).status_code == 200


async def test_the_waiting_requests_of_teams_take_turns_by_weight(tmp_path: Path) -> None:
    keys = {name: digest(f"{name}s-key").hex() for name in ("anna", "bob")}
    table = parse(
        b"teams: {blue: {weight: 3}, red: {weight: 1}}\n"
        + f"keys: {{anna: {{sha256: {keys['anna']}, team: blue}}, bob: {{sha256: {keys['bob']}, team: red}}}}".encode()
    )
    async with fleet(tmp_path, {"a": QUICK}, table=table) as running:
        running["a"].set_faults(HANGS)
        held = [asyncio.create_task(ask(running, "annas-key")) for _ in range(MOST)]
        await auntil(lambda: running["a"].requests[WORKER_PATH] == MOST, 15, "a full worker")
        order: list[str] = []

        async def ask_and_note(name: str) -> None:
            assert (await ask(running, f"{name}s-key")).status_code == 200
            order.append(name)

        tasks = [asyncio.create_task(ask_and_note(name)) for _ in range(40) for name in ("bob", "anna")]
        await until_gauge(running, "vllama_queue_waiting", 80)
        running["a"].set_faults([])
        for task in held:
            task.cancel()
        await asyncio.gather(*tasks)
        assert 27 <= order[:40].count("anna") <= 33
