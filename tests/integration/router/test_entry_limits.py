"""Limits of an entry of the routing file, over real sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.support.fleet.live import Fleet, fleet
from tests.support.operations import REQUESTS, Request, error_text, is_whole
from tests.support.until import auntil
from vllama_pool.config.routing.table import RoutingTable, parse
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

QUICK = Options(model="tiny", tokens_per_second=5000, ttft=0.001, answer_tokens=8, slots=32, transcription=True)
EMBED = Options(model="tiny", embedding=True, slots=32)
BUSY = "server busy, please try again.  maximum pending requests exceeded"
every = pytest.mark.parametrize("request_", REQUESTS, ids=map(str, REQUESTS))


def limited(text: str) -> RoutingTable:
    return parse(f"models: {{tiny: {{limits: {text}}}}}\n".encode())


async def ask(running: Fleet, request: Request, **headers: str) -> httpx.Response:
    return await running.http.post(request.path, **request.content("tiny"), headers=headers)


def options(request: Request) -> Options:
    return EMBED if request.embeds else QUICK


async def gauge(running: Fleet, name: str) -> float:
    lines = (await running.http.get("/metrics")).text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(f'{name}{{model="tiny')), -1.0)


@every
async def test_requests_beyond_the_limits_wait_and_then_are_refused_in_the_format_of_the_api(
    tmp_path: Path, request_: Request
) -> None:
    async with fleet(tmp_path, {"a": options(request_)}, table=limited("{concurrency: 1, queue: 1}")) as running:
        running["a"].set_faults([faults.Hang(paths=(request_.worker_path,))])
        first = asyncio.create_task(ask(running, request_))
        await auntil(lambda: _is(running, "vllama_queue_in_progress", 1), 10, "the first request to be in progress")
        second = asyncio.create_task(ask(running, request_, **{"x-request-id": "second"}))
        await auntil(lambda: _is(running, "vllama_queue_waiting", 1), 10, "the second request to wait")
        busy = await ask(running, request_)
        assert (busy.status_code, error_text(request_, busy)) == (503, BUSY)
        assert int(busy.headers["retry-after"]) >= 1
        running["a"].set_faults([])
        first.cancel()
        assert is_whole(request_, await second)
        assert (await running.record("second"))["queue_ms"] > 0
        await auntil(lambda: _is(running, "vllama_queue_in_progress", 0), 10, "all places to be free")
        assert await gauge(running, "vllama_queue_seconds_count") == 3.0


async def _is(running: Fleet, name: str, value: float) -> bool:
    return await gauge(running, name) == value


CHAT = next(request for request in REQUESTS if str(request) == "/api/chat")


async def test_a_request_that_waited_too_long_is_refused(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": QUICK}, table=limited("{concurrency: 1, wait: 50ms}")) as running:
        running["a"].set_faults([faults.Hang(paths=(CHAT.worker_path,))])
        first = asyncio.create_task(ask(running, CHAT))
        await auntil(lambda: _is(running, "vllama_queue_in_progress", 1), 10, "the first request to be in progress")
        busy = await ask(running, CHAT)
        assert (busy.status_code, busy.json()) == (503, {"error": BUSY})
        first.cancel()


async def test_a_header_or_an_unlisted_key_makes_no_tenant_of_its_own(tmp_path: Path) -> None:
    names = ("authorization", "x-api-key", "x-tenant", "x-user-id", "openai-organization", "x-forwarded-for")
    claims = [{name: value} for name in names for value in ("Bearer vip", "10.9.8.7")]
    async with fleet(tmp_path, {"a": QUICK}, table=limited("{concurrency: 1}")) as running:
        running["a"].set_faults([faults.Hang(paths=(CHAT.worker_path,))])
        first = asyncio.create_task(ask(running, CHAT))
        await auntil(lambda: _is(running, "vllama_queue_in_progress", 1), 10, "the first request to be in progress")
        answered: list[int] = []

        async def numbered(number: int, headers: dict[str, str]) -> None:
            assert (await ask(running, CHAT, **headers)).status_code == 200
            answered.append(number)

        tasks = []
        for number, headers in enumerate([{}, {}, *claims]):
            tasks.append(asyncio.create_task(numbered(number, headers)))
            await auntil(lambda: _is(running, "vllama_queue_waiting", len(tasks)), 10, "one more to wait")
        running["a"].set_faults([])
        first.cancel()
        await asyncio.gather(*tasks)
        assert answered == sorted(answered), "a tenant of its own would have had its turn before the second request"


async def test_clients_that_leave_the_queue_make_room_and_leave_nothing_behind(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": QUICK}, table=limited("{concurrency: 1, queue: 5}")) as running:
        running["a"].set_faults([faults.Hang(paths=(CHAT.worker_path,))])
        tasks = [asyncio.create_task(ask(running, CHAT)) for _ in range(6)]
        await auntil(lambda: _is(running, "vllama_queue_waiting", 5), 10, "five requests to wait")
        running["a"].set_faults([])
        for task in tasks:
            task.cancel()
        await auntil(lambda: _is(running, "vllama_queue_waiting", 0), 10, "the queue to be empty")
        answers = await asyncio.gather(*(ask(running, CHAT) for _ in range(6)))
        assert [answer.status_code for answer in answers] == [200] * 6


async def test_a_reload_that_raises_a_limit_lets_those_that_wait_proceed_at_once(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text("models: {tiny: {limits: {concurrency: 1}}}\n")
    async with fleet(tmp_path, {"a": QUICK}, routing_file=file) as running:
        running["a"].set_faults([faults.Hang(paths=(CHAT.worker_path,))])
        tasks = [asyncio.create_task(ask(running, CHAT)) for _ in range(4)]
        await auntil(lambda: _is(running, "vllama_queue_waiting", 3), 10, "three requests to wait")
        for limit, waiting in ((3, 1), (2, 1), (4, 0)):
            file.write_text(f"models: {{tiny: {{limits: {{concurrency: {limit}}}}}}}\n")
            await auntil(lambda: _has_limit(running, waiting), 10, "the new limit")  # noqa: B023
        assert await gauge(running, "vllama_queue_in_progress") == 4
        file.write_text("models: {}\n")
        await auntil(lambda: _is(running, "vllama_queue_in_progress", -1), 10, "the limit to be gone")
        running["a"].set_faults([])
        for task in tasks:
            task.cancel()
        assert is_whole(CHAT, await ask(running, CHAT))


async def _has_limit(running: Fleet, waiting: int) -> bool:
    return await gauge(running, "vllama_queue_waiting") == waiting


async def test_a_limit_on_waiting_requests_alone_bounds_those_that_wait_for_the_workers(tmp_path: Path) -> None:
    narrow = Options(model="tiny", tokens_per_second=500, ttft=0.01, answer_tokens=12, slots=1)
    async with fleet(tmp_path, {"a": narrow}, table=limited("{queue: 2}")) as running:
        running["a"].set_faults([faults.Freeze(seconds=600)])
        asked = [asyncio.create_task(ask(running, CHAT)) for _ in range(8)]
        await auntil(lambda: sum(task.done() for task in asked) == 4, 15, "half of them to be refused")
        running["a"].set_faults([faults.Freeze(seconds=0)])
        answers = await asyncio.gather(*asked)
        assert sorted(answer.status_code for answer in answers) == [200] * 4 + [503] * 4  # one runs, one waits in vLLM


async def test_all_names_of_an_entry_share_its_limits(tmp_path: Path) -> None:
    table = parse(b"models: {'tin*': {serve: tiny, aliases: [small], limits: {concurrency: 1, queue: 0}}}\n")
    async with fleet(tmp_path, {"a": QUICK}, table=table) as running:
        made = {"model": "mine", "from": "tiny", "stream": False}
        assert (await running.http.post("/api/create", json=made)).status_code == 200
        running["a"].set_faults([faults.Hang(paths=(CHAT.worker_path,))])
        first = asyncio.create_task(ask(running, CHAT))
        await auntil(lambda: _is_in_progress(running, "tin*"), 10, "the first request to be in progress")
        for name in ("tiny", "tinker", "small", "mine"):
            busy = await running.http.post(CHAT.path, **CHAT.content(name))
            assert busy.status_code == 503, name
        first.cancel()


async def _is_in_progress(running: Fleet, entry: str) -> bool:
    return f'vllama_queue_in_progress{{model="{entry}"}} 1.0' in (await running.http.get("/metrics")).text
