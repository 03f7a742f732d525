"""Faults under load: clients send without pause while the registry or workers fail."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import httpx
import pytest

from tests.support import operations
from tests.support.fleet.live import Fleet, fleet
from tests.support.own_time import OwnTime, own_time
from tests.support.until import auntil
from vllama_pool.workers.registry import embedded
from vllama_pool.workers.registry.client import RegistryUnavailable, connect
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

pytestmark = [pytest.mark.load, pytest.mark.timeout(300)]

MODEL = "tiny:latest"
TOKENS = 13
"""Tokens per answer: twelve and the end of the sequence."""
QUICK = Options(model=MODEL, tokens_per_second=200, ttft=0.01, answer_tokens=12, slots=32)
CHAT = "/v1/chat/completions"
PATIENCE = 3.0
"""Factor for what other processes must do in time, on a machine that others use too."""
Figures = Callable[[str, object], None]


def chat(model: str = "tiny", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}


@pytest.fixture
async def clock() -> AsyncIterator[OwnTime]:
    """A machine that runs others for seconds keeps this process from its promises, so that does not count."""
    async with own_time() as running:
        yield running


@dataclass
class Traffic:
    """The clients' results."""

    answered: int = 0
    slowest: float = 0.0
    """Seconds of the longest request."""
    failed: list[str] = field(default_factory=list)
    """Responses that are not whole answers."""

    async def wait_for_more(self, count: int, timeout: float = 60.0) -> None:
        """Wait for `count` more answers, or a failure."""
        enough = self.answered + count
        await auntil(lambda: self.answered >= enough or bool(self.failed), timeout, f"{count} further answers")


@asynccontextmanager
async def traffic(running: Fleet, clients: int = 8, *, streams: bool = True) -> AsyncIterator[Traffic]:
    """Run clients that never pause, half of them streaming if `streams`."""
    results = Traffic()
    stopping = asyncio.Event()

    async def ask(stream: bool) -> None:
        while not stopping.is_set():
            began = time.monotonic()
            response = await running.http.post("/api/chat", json=chat(stream=stream))
            results.slowest = max(results.slowest, time.monotonic() - began)
            whole = response.status_code == 200 and f'"eval_count":{TOKENS}' in response.text
            if whole and '"error"' not in response.text:
                results.answered += 1
            else:
                results.failed.append(f"{response.status_code} {response.text[-300:]}")

    async with asyncio.TaskGroup() as tasks:
        for number in range(clients):
            tasks.create_task(ask(streams and number % 2 == 0))
        try:
            yield results
        finally:
            stopping.set()


@asynccontextmanager
async def watch_ready_workers(running: Fleet) -> AsyncIterator[list[set[str]]]:
    """Collect each incomplete set of ready workers that the router shows."""
    incomplete: list[set[str]] = []

    async def watch() -> None:
        while True:
            ready = {name for name, state in (await running.states()).items() if state == "ready"}
            if ready != set(running.workers):
                incomplete.append(ready)
            await asyncio.sleep(0.05)

    task = asyncio.create_task(watch())
    try:
        yield incomplete
    finally:
        task.cancel()
        await asyncio.wait([task])


async def in_flight(running: Fleet) -> int:
    workers = (await running.http.get("/admin/workers")).json()["workers"]
    return sum(worker["in_flight"] for worker in workers)


async def test_no_request_fails_while_the_registry_is_killed_frozen_or_emptied(
    tmp_path: Path, clock: OwnTime, record_property: Figures
) -> None:
    async with (
        fleet(tmp_path, {"a": QUICK, "b": QUICK, "c": QUICK}) as running,
        watch_ready_workers(running) as incomplete,
        traffic(running) as results,
    ):
        await results.wait_for_more(50)

        assert running.valkey.pid is not None
        os.kill(running.valkey.pid, signal.SIGKILL)
        await running.valkey.stop()
        await auntil(lambda: _registry_up(running, False), 5, "the router to report the registry's state")
        await results.wait_for_more(200)
        await running.valkey.start()
        began = clock.now
        await auntil(lambda: _whole(running), 5, "the registry to be whole again")
        after_kill = clock.now - began
        assert after_kill < 2 * PATIENCE

        os.kill(running.valkey.pid, signal.SIGSTOP)
        try:
            await auntil(lambda: _registry_up(running, False), 5, "the router to report the registry's state")
            await results.wait_for_more(200)
        finally:
            os.kill(running.valkey.pid, signal.SIGCONT)
        await auntil(lambda: _registry_up(running, True), 5, "the router to report the registry's state")

        async with connect(embedded.address(tmp_path)) as redis:
            await redis.flushall()
        began = clock.now
        await auntil(lambda: _whole(running), 5, "the registry to be whole again")
        after_flush = clock.now - began
        assert after_flush < 2 * PATIENCE
        await results.wait_for_more(100)
    record_property(
        "figure",
        f"registry killed, frozen, emptied: {results.answered} requests, {len(results.failed)} failed, slowest "
        f"{results.slowest:.2f} s; whole again {after_kill:.2f} s after a start, {after_flush:.2f} s after a flush",
    )
    assert results.failed == []
    assert incomplete == []


async def _registry_up(running: Fleet, expected: bool) -> bool:
    return bool((await running.http.get("/admin/workers")).json()["registry_up"]) is expected


async def _whole(running: Fleet) -> bool:
    try:
        return (await running.registry.snapshot()).beats.keys() == running.workers.keys()
    except RegistryUnavailable:
        return False


async def test_a_model_without_workers_gets_503_and_other_models_are_served(tmp_path: Path, clock: OwnTime) -> None:
    """The registry still lists the workers; their connections are refused."""
    other = Options(model="other", tokens_per_second=200, ttft=0.01, answer_tokens=12)
    async with fleet(tmp_path, {"a": QUICK, "b": QUICK, "o": other}) as running:
        for name in "ab":
            running[name].refuse()
        for _ in range(20):
            began = clock.now
            refused = await running.http.post("/api/chat", json=chat())
            assert clock.now - began < 5
            assert refused.status_code == 503, refused.text
            assert int(refused.headers["retry-after"]) >= 1
            assert isinstance(refused.json()["error"], str)
            assert (await running.http.post("/api/chat", json=chat("other"))).status_code == 200
        assert "tiny:latest" in (await running.http.get("/api/tags")).text
        for name in "ab":
            await running[name].listen()

        async def back() -> bool:
            return (await running.http.post("/api/chat", json=chat())).status_code == 200

        await auntil(back, 10, "the model to be served again")


async def test_no_request_fails_while_a_worker_comes_and_goes(tmp_path: Path, record_property: Figures) -> None:
    """Without streaming, because a stream that has begun cannot be retried."""
    async with fleet(tmp_path, {"a": QUICK, "b": QUICK, "flapping": QUICK}) as running:
        async with traffic(running, streams=False) as results:
            for _ in range(6):
                running["flapping"].vanish()
                await results.wait_for_more(80)
                await running["flapping"].listen()
                await results.wait_for_more(80)
        share = running["flapping"].tokens / sum(running[name].tokens for name in running.workers)
        record_property(
            "figure",
            f"a worker that comes and goes: {results.answered} requests, {len(results.failed)} failed, slowest "
            f"{results.slowest:.2f} s; it made {share:.1%} of the tokens",
        )
        assert results.failed == []
        assert any(record.get("failures") for record in running.records()), "some attempts did meet it"
        assert share < 0.2


async def test_a_worker_killed_under_mixed_load_costs_only_streams_that_had_begun(
    tmp_path: Path, record_property: Figures
) -> None:
    """All operations at once; the others end with an error in the format of their API."""
    chats = dict.fromkeys(("a", "b", "c"), replace(QUICK, transcription=True))
    embedders = {name: Options(model="embedder", embedding=True, slots=32) for name in ("d", "e")}
    answered, broken, failed = Counter[str](), Counter[str](), list[str]()
    stopping = asyncio.Event()
    turns = asyncio.Lock()  # one quick request at a time, so that generations get their share

    async def ask(request: operations.Request) -> None:
        content = request.content("embedder" if request.embeds else MODEL)
        while not stopping.is_set():
            async with turns if request.stream is None else contextlib.nullcontext():
                response = await running.http.post(request.path, **content)
            if operations.is_whole(request, response):
                answered[request.path] += 1
            elif request.stream and response.status_code == 200 and operations.ends_with_error(request, response.text):
                broken[request.path] += 1
            else:
                failed.append(f"{request} {response.status_code} {response.text[-300:]}")

    async def wait_for_more() -> None:
        before = answered.copy()
        await auntil(lambda: all(answered[each.path] > before[each.path] + 1 for each in operations.REQUESTS), 120)

    def retried() -> int:
        return sum(1 for record in running.records() if record.get("failures") and record["outcome"] == "complete")

    kills = 0
    async with fleet(tmp_path, chats | embedders) as running, asyncio.TaskGroup() as tasks:
        for request in operations.REQUESTS:
            tasks.create_task(ask(request))
        try:
            while kills < 2 or (kills < 10 and not retried()):  # by chance, only streams may run at a worker
                await wait_for_more()
                await auntil(lambda: running["c"].running > 1, 60, "the worker to be busy")
                for name in ("c", "e"):
                    running[name].vanish()
                kills += 1
                await wait_for_more()
                for name in ("c", "e"):
                    await running[name].listen()
        finally:
            stopping.set()
    record_property(
        "figure",
        f"two workers killed {kills} times under mixed load: {answered.total()} requests of {len(answered)} paths "
        f"answered, {retried()} of them after a failure, {broken.total()} streams broken, {len(failed)} failed",
    )
    assert failed == []
    assert retried() > 0
    assert set(broken) <= {each.path for each in operations.REQUESTS if each.stream}


async def test_a_retry_storm_is_bounded(tmp_path: Path, record_property: Figures) -> None:
    """Every worker refuses every request. Retries must not triple the load."""
    async with fleet(tmp_path, {"a": QUICK, "b": QUICK, "c": QUICK}) as running:
        for name in running.workers:
            running[name].set_faults([faults.Status(status=503)])
        requests = 300
        gate = asyncio.Semaphore(20)

        async def ask() -> int:
            async with gate:
                return (await running.http.post("/api/chat", json=chat())).status_code

        statuses = await asyncio.gather(*(ask() for _ in range(requests)))
        attempts = sum(running[name].requests[CHAT] for name in running.workers)
        record_property("figure", f"retry storm: {requests} requests, {attempts} attempts")
        assert set(statuses) == {503}
        assert attempts <= 1.2 * requests + 3


async def test_no_request_fails_when_workers_close_idle_connections(tmp_path: Path) -> None:
    """Pauses match the worker's keep-alive time, so that requests cross its close."""
    hasty = Options(model=MODEL, tokens_per_second=2000, ttft=0.0, answer_tokens=2, keep_alive=0.02)
    rng = random.Random(5)
    async with fleet(tmp_path, {"only": hasty}) as running:
        for number in range(120):
            response = await running.http.post("/api/chat", json=chat(stream=number % 2 == 0))
            assert response.status_code == 200, response.text
            assert '"done":true' in response.text
            await asyncio.sleep(rng.uniform(0.015, 0.025))  # what is tried is exactly this moment
        attempts = [record["attempts"] for record in running.records() if record["operation"] == "chat"]
        assert max(attempts) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_clients_that_disconnect_at_any_moment_leak_nothing(
    tmp_path: Path, stream: bool, record_property: Figures
) -> None:
    rng, latest = random.Random(3), 0.08
    body = httpx.Request("POST", "http://x/", json=chat(stream=stream)).content
    head = f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with fleet(tmp_path, {"a": QUICK, "b": QUICK}) as running:
        port = int(running.url.rpartition(":")[2])

        async def disconnect_early() -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head + body)
            await asyncio.sleep(rng.uniform(0, latest))  # from before the router has read it to after its end
            if rng.random() < 0.5:
                reset = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, reset)
            writer.transport.abort()

        async def many(count: int) -> None:
            gate = asyncio.Semaphore(50)

            async def one() -> None:
                async with gate:
                    await disconnect_early()

            await asyncio.gather(*(one() for _ in range(count)))
            await auntil(lambda: _at_rest(running), 5, "the fleet to be at rest")

        await many(100)
        await auntil(lambda: running["a"].connections == running["b"].connections == set(), 10, "idle ones to close")
        tasks, files = len(asyncio.all_tasks()), _open_files()
        await many(500)
        for _ in range(20):  # on a slow machine most have left before the worker hears of them, so others stay longer
            aborted = sum(running[name].aborted for name in running.workers)
            if aborted > 50:
                break
            latest *= 1.5
            await many(50)
        record_property("figure", f"clients left at any moment ({stream=}): {aborted} aborted on the workers")
        assert aborted > 50
        await auntil(lambda: running["a"].connections == running["b"].connections == set(), 10, "idle ones to close")
        await auntil(lambda: len(asyncio.all_tasks()) <= tasks, 5, "tasks to end")
        await auntil(lambda: _open_files() <= files, 5, "files to be closed")
        states = (await running.http.get("/admin/workers")).json()["workers"]
        assert {worker["breaker"] for worker in states} == {"closed"}
        assert (await running.http.post("/api/chat", json=chat())).status_code == 200


async def _at_rest(running: Fleet) -> bool:
    busy = sum(running[name].running + running[name].waiting for name in running.workers)
    return busy == 0 and await in_flight(running) == 0


def _open_files() -> int:
    """Return the number of open files, without connections to the registry: concurrent beats may open one more."""
    unix = {f"socket:[{line.split()[6]}]" for line in Path("/proc/net/unix").read_text().splitlines()[1:]}
    files = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            files += os.readlink(f"/proc/self/fd/{name}") not in unix
    return files
