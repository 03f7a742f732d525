"""The limit on a request's whole time."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet.live import Fleet, fleet
from tests.support.tables import routing_table
from tests.support.until import auntil
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

TINY = Options(model="tiny", tokens_per_second=20, ttft=0.01, answer_tokens=2000, slots=1)
HELLO = [{"role": "user", "content": "hello"}]
LATE = "the request was not complete within 3 s"


def table(**entry: Any) -> Any:
    return routing_table(models={"m": {"serve": "tiny", **entry}, "usual": {"serve": "tiny"}})


async def chat(running: Fleet, model: str = "m", path: str = "/api/chat", **fields: Any) -> Any:
    return await running.http.post(path, json={"model": model, "messages": HELLO, **fields})


async def test_a_stream_beyond_its_time_ends_with_one_error_line_and_its_worker_stops(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": TINY, "b": TINY}, table=table(timeouts={"total": 3})) as running:
        answer = await chat(running)
        *lines, last = [json.loads(line) for line in answer.text.splitlines()]
        assert lines
        assert all("error" not in line for line in lines)
        assert LATE in last["error"]
        await auntil(lambda: running["a"].running + running["b"].running == 0, 10, "the workers to stop")
        await auntil(lambda: len(running.records()) == 1, 5, "the log line")
        (record,) = running.records()
        assert (record["outcome"], record["status"], record["attempts"]) == ("out of time", 200, 1)


LOST = faults.Cut(paths=("/v1/chat/completions",), after_tokens=5, reset=True)
CONTINUED: dict[str, tuple[faults.Fault, ...]] = {
    "its second worker reads the tokens": (faults.Hang(paths=("/detokenize",)),),
    "its second worker has sent nothing": (faults.Hang(paths=("/v1/completions",)),),
    "its second worker answers": (),
}
"""Faults of all workers while the total time passes, by model."""


async def test_a_stream_that_is_continued_ends_with_one_error_line_when_its_time_is_over(tmp_path: Path) -> None:
    models = {f"m{number}": more for number, more in enumerate(CONTINUED.values())}
    workers = {f"{model}-{one}": replace(TINY, model=model, slots=8) for model in models for one in "ab"}
    entries = routing_table(models={f"timed-{model}": {"serve": model, "timeouts": {"total": 6}} for model in models})
    async with fleet(tmp_path, workers, table=entries) as running:
        for name in workers:
            running[name].set_faults((LOST, *models[name.partition("-")[0]]))
        cases = list(itertools.product(models, ("/api/chat", "/v1/chat/completions")))
        answers = await asyncio.gather(*(chat(running, f"timed-{m}", path, stream=True) for m, path in cases))
        for (model, path), answer in zip(cases, answers, strict=True):
            lines = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
            assert ["error" in line for line in lines] == [False] * (len(lines) - 1) + [True], (model, path)
            error = lines[-1]["error"]
            assert "the request was not complete within 6 s" in (error if path == "/api/chat" else error["message"])
        await auntil(lambda: not any(running[name].running for name in workers), 20, "the workers to stop")
        await auntil(lambda: len(running.records()) == len(cases), 15, "the log lines")
        found = {
            (record["model"], record["outcome"], record["attempts"], record.get("resumed", 0))
            for record in running.records()
        }
        assert found == {(f"timed-{model}", "out of time", 2, int(not more)) for model, more in models.items()}

        async def idle() -> bool:
            page = (await running.http.get("/admin/workers")).json()
            return {worker["in_flight"] for worker in page["workers"]} == {0}

        await auntil(idle, 15, "the router to count nothing")


async def test_a_stream_of_openai_ends_with_an_error_event(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": TINY}, total_timeout=3.0) as running:
        answer = await chat(running, "tiny", "/v1/chat/completions", stream=True)
        events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
        errors = [event for event in events if "error" in event]
        assert len(errors) == 1
        assert LATE in json.loads(errors[0])["error"]["message"]


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
async def test_a_whole_answer_beyond_its_time_is_a_504_and_its_worker_stops(tmp_path: Path, path: str) -> None:
    async with fleet(tmp_path, {"a": TINY}, table=table(timeouts={"total": 3})) as running:
        answer = await chat(running, path=path, stream=False, max_tokens=2000)
        assert answer.status_code == 504
        error = answer.json()["error"]
        assert (error if path == "/api/chat" else error["message"]) == LATE
        await auntil(lambda: running["a"].running == 0, 10, "the worker to stop")


async def test_a_request_whose_time_is_over_in_the_queue_never_reaches_a_worker(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": TINY}, table=table(timeouts={"total": 3})) as running:
        busy = [asyncio.create_task(chat(running, "usual")) for _ in range(4)]
        await auntil(lambda: running["a"].requests.total() == 2, 10, "one that runs and one that waits in the worker")
        sent = running["a"].requests.total()
        late = await asyncio.gather(*(chat(running, stream=False) for _ in range(3)))
        assert [answer.status_code for answer in late] == [504] * 3
        assert {answer.json()["error"] for answer in late} == {LATE}
        await auntil(lambda: len(running.records()) == 3, 5, "the log lines")
        assert all(record["queue_ms"] > 2900 and not record.get("attempts") for record in running.records())
        assert running["a"].requests.total() == sent
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)


async def test_a_request_that_is_retried_keeps_its_limit(tmp_path: Path) -> None:
    hanging = replace(TINY, slots=4)
    async with fleet(tmp_path, {"a": hanging}, table=table(timeouts={"total": 3, "first_content": 0.4})) as running:
        running["a"].set_faults([faults.Hang()])
        answer = await chat(running)
        assert answer.status_code == 504


async def test_requests_without_a_limit_are_not_ended(tmp_path: Path) -> None:
    quick = replace(TINY, tokens_per_second=20, answer_tokens=100)
    async with fleet(tmp_path, {"a": quick}, table=table(timeouts={"total": 3})) as running:
        answer = await chat(running, "usual")
        assert json.loads(answer.text.splitlines()[-1])["done"] is True
