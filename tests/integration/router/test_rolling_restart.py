"""Router processes and agents are restarted one after the other under load, and nobody notices."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.fleet.programs import VLLAMA, Serve
from tests.support.ports import free_ports
from tests.support.processes import words_of
from tests.support.until import auntil

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="lifelines are Linux")]

WORKERS = ("w0", "w1", "w2")
CLIENTS = 16
TOKENS = 12
READY = 180.0
"""Seconds."""


class Load:
    """Clients that stream without a pause; half of them keep their connections."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.complete = 0
        self.failures: list[str] = []
        self.slowest = 0.0
        self._stopping = False

    @asynccontextmanager
    async def running(self, clients: int = CLIENTS) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._run(keeps=bool(number % 2))) for number in range(clients)]
        try:
            yield
        finally:
            self._stopping = True
            await asyncio.gather(*tasks)

    async def _run(self, *, keeps: bool) -> None:
        limits = httpx.Limits(max_keepalive_connections=1 if keeps else 0)
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=60, limits=limits) as http:
            while not self._stopping:
                started = time.monotonic()
                try:
                    self._judge(await http.post(f"{self.url}/api/generate", json=BODY))
                except httpx.HTTPError as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
                self.slowest = max(self.slowest, time.monotonic() - started)

    def _judge(self, answer: httpx.Response) -> None:
        lines = [json.loads(line) for line in answer.text.splitlines()]
        if answer.status_code == 200 and lines[-1].get("done") and lines[-1].get("eval_count") == TOKENS:
            self.complete += 1
        else:
            self.failures.append(answer.text[-300:])


BODY = {"model": "tiny", "prompt": "x", "options": {"num_predict": TOKENS}}


@contextlib.contextmanager
def serving(tmp_path: Path, *, processes: int = 2, **environ: str) -> Iterator[Serve]:
    words = f"--port 0 --processes {processes} --engine simulated --vllm-port {free_ports(3)} --replicas 3"
    flags = "--tokens-per-second 40 --max-num-seqs 32"
    command = [VLLAMA, "serve", *words.split(), "--model", "tiny", "--name", "w", *flags.split()]
    served = Serve(command, {"VLLAMA_STATE_DIR": str(tmp_path / "state"), **environ}, tmp_path / "serve.log")
    try:
        yield served
    finally:
        served.end()


async def until_ready(served: Serve) -> None:
    async def whole() -> bool:
        if not served.url:
            return False
        with contextlib.suppress(httpx.HTTPError):
            async with httpx.AsyncClient(trust_env=False, verify=False, timeout=60) as http:
                page = (await http.get(f"{served.url}/admin/workers")).json()
            states = [worker["state"] for worker in page["workers"]]
            return states == ["ready"] * 3 and page["processes"] == {"total": 2, "answered": 2}
        return False

    await auntil(whole, READY, "all processes and workers to be ready")


def routers(served: Serve) -> list[psutil.Process]:
    return [one for one in served.descendants() if "vllama_pool.router.start" in " ".join(words_of(one))]


def agents(served: Serve) -> list[psutil.Process]:
    return [one for one in served.descendants() if {"worker", "--name"} <= set(words_of(one))]


async def restart_each(served: Serve, find: Callable[[Serve], list[psutil.Process]], load: Load) -> None:
    """Stop each process with SIGTERM, and wait until its replacement serves under load."""
    for process in find(served):
        before = load.complete
        process.send_signal(signal.SIGTERM)
        await auntil(lambda process=process: not process.is_running(), READY, f"{process.pid} to end")
        await until_ready(served)
        await auntil(lambda before=before: load.complete > before + CLIENTS, READY, "further answers")


async def test_router_processes_and_agents_restart_one_after_the_other_without_an_error(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with serving(tmp_path) as served:
        await until_ready(served)
        first = {one.pid for one in (*routers(served), *agents(served))}
        load = Load(served.url)
        async with load.running():
            await auntil(lambda: load.complete > CLIENTS, READY, "the first answers")
            await restart_each(served, routers, load)
            await restart_each(served, agents, load)
        assert not first & {one.pid for one in (*routers(served), *agents(served))}
        assert load.failures == []
        record_property("figure", f"rolling restart: {load.complete} streams, slowest {load.slowest:.1f} s")
        log = served.log.read_text()
        ends = re.findall(r"^router +router-([01])  (?:stopped|exited with code 0); ", log, re.MULTILINE)
        assert sorted(ends) == ["0", "1"], "a process that stops within five seconds waits for its successor"


async def test_a_stop_finishes_streams_and_loses_no_connection_that_was_accepted(tmp_path: Path) -> None:
    """After the stop signal, clients get whole answers until the port refuses them."""
    with serving(tmp_path) as served:
        await until_ready(served)
        load = Load(served.url)
        async with load.running():
            await auntil(lambda: load.complete > CLIENTS, READY, "the first answers")
            served.signal(signal.SIGTERM)
            await auntil(lambda: any(map(_refused, load.failures)), READY, "the port to refuse")
            load._stopping = True
        assert [failure for failure in load.failures if not _refused(failure)] == []
        assert served.wait() == 0


async def test_with_a_drain_delay_the_port_accepts_on_while_it_is_not_ready(tmp_path: Path) -> None:
    with serving(tmp_path, VLLAMA_DRAIN_DELAY="10s") as served:
        await until_ready(served)
        async with httpx.AsyncClient(trust_env=False, verify=False, base_url=served.url, timeout=60) as http:
            assert (await http.get("/readyz")).status_code == 200
            served.signal(signal.SIGTERM)
            signalled = time.monotonic()

            async def not_ready() -> bool:
                return (await http.get("/readyz")).status_code == 503

            await auntil(not_ready, 10, "the router to be not ready")

            async def closes() -> bool:
                answer = await http.post("/api/generate", json=BODY)
                assert answer.status_code == 200
                return answer.headers.get("connection") == "close"

            await auntil(closes, 10, "connections to end with their response")
            assert (await http.get("/livez")).status_code == 200
            assert served.wait() == 0
            assert time.monotonic() - signalled > 9.4
            with pytest.raises(httpx.ConnectError):
                await http.get("/livez")


def _refused(failure: str) -> bool:
    return failure.startswith("ConnectError: ")


async def test_a_worker_is_drained_replaced_and_taken_back_under_load_without_an_error(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        await until_ready(served)
        load = Load(served.url)
        async with load.running():
            await auntil(lambda: load.complete > CLIENTS, READY, "the first answers")
            code, output = await vllama(served, "drain", "w-0", "--wait", "--timeout", "40s")
            assert code == 0, output
            assert output.splitlines()[-1].startswith("w-0 has no requests: drained after ")
            (agent,) = [one for one in agents(served) if "w-0" in words_of(one)]
            agent.send_signal(signal.SIGTERM)
            await auntil(lambda: not agent.is_running(), READY, "the agent to end")
            await auntil(lambda: _state(served, "w-0", "draining (asked)"), READY, "the new agent, still drained")
            assert (await vllama(served, "undrain", "w-0")) == (0, "w-0 gets requests again\n")
            await until_ready(served)
        assert load.failures == []


async def vllama(served: Serve, *words: str) -> tuple[int, str]:
    command = [VLLAMA, *words, "--url", served.url]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def _state(served: Serve, worker: str, state: str) -> bool:
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=60) as http:
        page = (await http.get(f"{served.url}/admin/workers")).json()
    return {one["id"]: one["state"] for one in page["workers"]}.get(worker) == state


async def test_an_agent_that_stops_finishes_its_streams_and_gets_no_new_one(tmp_path: Path) -> None:
    body = {"model": "tiny", "prompt": "x"}
    with serving(tmp_path) as served:
        await until_ready(served)
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=60, base_url=served.url) as http:

            async def stream(name: str, tokens: int) -> bool:
                content = {**body, "options": {"num_predict": tokens}}
                answer = await http.post("/api/generate", json=content, headers={"x-request-id": name})
                last = json.loads(answer.text.splitlines()[-1])
                return answer.status_code == 200 and last.get("eval_count") == tokens

            await slow_down(http, factor=20)
            streams = [asyncio.create_task(stream(f"early-{number}", 60)) for number in range(20)]
            (agent,) = [one for one in agents(served) if "w-0" in words_of(one)]
            await auntil(lambda: _running(http), READY, "all streams to run, so that some do on the worker")
            agent.send_signal(signal.SIGTERM)
            drains: list[bool] = []
            await auntil(lambda: _drains_everywhere(served, drains), READY, "each process to know")
            assert all(await asyncio.gather(*(stream(f"late-{number}", 1) for number in range(20))))
            await slow_down(http, factor=1)
            assert all(await asyncio.gather(*streams))
            late = [served.request(f"late-{number}")["worker"] for number in range(20)]
            assert set(late) <= {"w-1", "w-2"}
            early = [served.request(f"early-{number}") for number in range(20)]
            assert "w-0" in {one["worker"] for one in early}
            assert {one["attempts"] for one in early} == {1}


async def slow_down(http: httpx.AsyncClient, factor: float) -> None:
    """Multiply the time that each worker takes for a token."""
    for worker in (await http.get("/admin/workers")).json()["workers"]:
        await http.post(f"{worker['url']}/simulated/faults", json={"kind": "slow", "factor": factor})


async def _running(http: httpx.AsyncClient) -> bool:
    page = (await http.get("/admin/workers")).json()
    return sum(one["in_flight"] for one in page["workers"]) == 20


async def _drains_everywhere(served: Serve, seen: list[bool]) -> bool:
    """Return True after ten answers in turn, from whichever process accepts, in which the worker drains."""
    seen.append(await _state(served, "w-0", "draining"))
    return len(seen) >= 10 and all(seen[-10:])
