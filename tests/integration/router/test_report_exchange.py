"""Router processes exchange reports, and leave out a process that does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.ports import free_ports
from tests.support.processes import runs
from tests.support.until import auntil, until
from vllama_pool.router.instance import RouterInstance
from vllama_pool.router.telemetry.report_exchange import Question, Report, ReportExchange
from vllama_pool.workers.process.lifeline import die_with_parent

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")]

VLLAMA = (sys.executable, "-P", "-m", "vllama_pool.router.cli.main")


class Process:
    """One of several processes that report their index."""

    def __init__(self, index: int, total: int, family: str) -> None:
        self.report = Report("index", int, lambda: index)
        self.text = Report("text", str, lambda: f"process {index}")
        self.echo = Question("echo", str, lambda argument: f"process {index}: {argument}")
        reports = (self.report, self.text)
        self._exchange = ReportExchange(RouterInstance(index, total, family), reports, (self.echo,))
        self.serving = self._exchange.serving

    async def collect(self) -> list[int]:
        reports = await self._exchange.collect(self.report)
        assert all(index == report for index, report in reports.items())
        return sorted(reports)

    async def ask(self, argument: str) -> list[str]:
        return sorted((await self._exchange.ask(self.echo, argument)).values())

    async def texts(self) -> set[str]:
        return set((await self._exchange.collect(self.text)).values())


def processes(total: int) -> list[Process]:
    family = secrets.token_hex(8)
    return [Process(index, total, family) for index in range(total)]


async def test_every_process_collects_the_reports_of_all() -> None:
    exchanges = processes(3)
    async with contextlib.AsyncExitStack() as answering:
        for one in exchanges:
            await answering.enter_async_context(one.serving())
        for one in exchanges:
            assert await one.collect() == [0, 1, 2]
            assert await one.texts() == {"process 0", "process 1", "process 2"}


async def test_every_process_answers_a_question_by_its_argument() -> None:
    exchanges = processes(2)
    async with exchanges[0].serving(), exchanges[1].serving():
        answers = await asyncio.gather(*(exchanges[0].ask(text) for text in ("a b", "", "ä")))
    assert answers == [[f"process 0: {text}", f"process 1: {text}"] for text in ("a b", "", "ä")]


@pytest.mark.parametrize("argument", ["a\nb", "a\tb"])
async def test_an_argument_of_a_question_is_one_line(argument: str) -> None:
    (only,) = processes(1)
    with pytest.raises(ValueError, match="one line"):
        await only.ask(argument)


async def test_a_process_that_does_not_run_is_left_out() -> None:
    exchanges = processes(3)
    async with exchanges[0].serving(), exchanges[2].serving():
        assert await exchanges[0].collect() == [0, 2]
    assert await exchanges[0].collect() == [0]


async def test_concurrent_requests_for_reports_are_all_answered() -> None:
    exchanges = processes(2)
    async with exchanges[1].serving():
        answers = await asyncio.gather(*(exchanges[0].collect() for _ in range(500)))
    assert answers == [[0, 1]] * 500


async def test_a_single_process_reports_itself() -> None:
    (only,) = processes(1)
    async with only.serving():
        assert await only.collect() == [0]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Three router processes over a simulated worker."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VLLAMA_", "OLLAMA_", "REDIS_"))}
    out = tmp_path / "out"
    words = ["--port", "0", "--processes", "3", "--engine", "simulated", "--model", "demo", "--name", "demo"]
    words += ["--vllm-port", str(free_ports(2)), "--tokens-per-second", "1"]  # answers end after 65 tokens
    with out.open("wb") as file:
        process = subprocess.Popen(
            [*VLLAMA, "serve", *words],
            env={**kept, "VLLAMA_STATE_DIR": str(tmp_path / "state")},
            stdout=file,
            stderr=file,
            preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509  it takes no locks
        )
    try:
        until(lambda: "ready. Try:" in out.read_text() or process.poll() is not None, 180, "it is ready")
        found = re.search(r"^router +(http://\S+)  listening \(3 processes\)", out.read_text(), re.MULTILINE)
        assert found, out.read_text()
        yield process, found.group(1)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


async def test_every_process_serves_the_merged_workers_metrics_and_decisions_of_all(
    served: tuple[subprocess.Popen[bytes], str],
) -> None:
    process, url = served
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "options": {"num_predict": 2000}}
    async with (
        httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, verify=False) as http,
        contextlib.AsyncExitStack() as open_,
    ):
        for number in range(6):
            headers = {"x-request-id": f"request-{number}"}
            answer = await open_.enter_async_context(http.stream("POST", "/api/chat", json=body, headers=headers))
            assert answer.status_code == 200

        async def page() -> Any:
            async with httpx.AsyncClient(
                base_url=url, timeout=60, trust_env=False, verify=False
            ) as fresh:  # so to any process
                return (await fresh.get("/admin/workers")).json()

        async def is_whole() -> bool:
            pages = await page()
            return pages["processes"] == {"total": 3, "answered": 3} and [
                worker["in_flight"] for worker in pages["workers"]
            ] == [6]

        async def is_explained(request: str) -> bool:
            async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, verify=False) as fresh:
                explained = (await fresh.get("/admin/explain", params={"request": request})).json()
                lines = (await fresh.get("/admin/decisions")).text.splitlines()
            return (explained.get("id"), explained.get("worker"), len(lines)) == (request, "demo", 6)

        async def metrics_are_merged() -> bool:
            metrics = (await http.get("/metrics")).text
            in_flight = re.findall(r'vllama_worker_in_flight\{process="(\d)",worker="demo"\} (\d)', metrics)
            indices = [index for index, _ in in_flight]
            return indices == ["0", "1", "2"] and sum(int(count) for _, count in in_flight) == 6

        # A process that a busy machine delays is left out of an answer, as a frozen one is.
        for _ in range(8):
            await auntil(is_whole, 20, "the workers as all processes see them")
        for number in range(6):
            await auntil(lambda number=number: is_explained(f"request-{number}"), 20, "the decision of any process")
        await auntil(metrics_are_merged, 20, "the metrics of all processes")

        routers = [child for child in psutil.Process(process.pid).children() if runs(child, "vllama_pool.router.start")]
        assert len(routers) == 3
        routers[0].suspend()
        try:
            async with asyncio.timeout(90):
                while (await page_of_running_process(url))["processes"]["answered"] != 2:
                    pass
        finally:
            routers[0].resume()
        await all_processes_answer(page)


async def page_of_running_process(url: str) -> Any:
    """Try again while the frozen process gets the connection."""
    while True:
        async with httpx.AsyncClient(base_url=url, timeout=5, trust_env=False, verify=False) as http:
            with contextlib.suppress(httpx.TimeoutException):
                return (await http.get("/admin/workers")).json()


async def all_processes_answer(page: Any) -> None:
    pages: list[int] = []

    async def all_answered() -> bool:
        pages.append((await page())["processes"]["answered"])
        return pages[-1] == 3

    await auntil(all_answered, 20, "all to answer again")
