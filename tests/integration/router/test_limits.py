"""Limits on a worker's silence and on waiting requests."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet.live import Fleet, fleet
from tests.support.until import auntil
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

MODEL = "tiny:latest"
TOKENS = 13
"""Tokens per answer: twelve and the end of the sequence."""
QUICK = Options(model=MODEL, tokens_per_second=500, ttft=0.01, answer_tokens=12)
IN_ANSWER = "the worker fell silent for 0.5 s in the middle of its answer"
BEFORE = "the worker did not begin to answer within 0.5 s"


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[Fleet]:
    """Workers that may be silent for half a second within an answer, and a minute before it."""
    async with fleet(tmp_path, {"a": QUICK, "b": QUICK}, stall_timeout=0.5, first_token_timeout=60.0) as running:
        yield running


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], **more}


@pytest.mark.rule(163)
async def test_a_stream_whose_worker_stalls_ends_with_an_error_line(impatient: Fleet) -> None:
    for name in ("a", "b"):
        impatient[name].set_faults([faults.Stall(after_tokens=5)])
    response = await impatient.http.post("/api/chat", json=chat())
    assert response.status_code == 200
    last = response.text.splitlines()[-1]
    assert json.loads(last) == {"error": f"an error was encountered while running the model: {IN_ANSWER}"}


async def test_a_whole_answer_whose_worker_stalls_is_retried(impatient: Fleet) -> None:
    impatient["a"].set_faults([faults.Stall(after_tokens=5)])
    answers = await asyncio.gather(*(impatient.http.post("/api/chat", json=chat(stream=False)) for _ in range(6)))
    assert [answer.status_code for answer in answers] == [200] * 6
    assert {answer.json()["eval_count"] for answer in answers} == {TOKENS}
    await auntil(lambda: len(impatient.records()) >= 6, 5, "all log lines")
    assert ["Lost"] in [record.get("failures") for record in impatient.records()]


async def test_a_whole_answer_that_stalls_on_every_worker_is_a_504(impatient: Fleet) -> None:
    for name in ("a", "b"):
        impatient[name].set_faults([faults.Stall(after_tokens=5)])
    response = await impatient.http.post("/api/chat", json=chat(stream=False))
    assert (response.status_code, response.json()) == (504, {"error": IN_ANSWER})


async def test_a_worker_that_does_not_begin_to_answer_is_given_up_after_first_token_timeout(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": QUICK}, stall_timeout=60.0, first_token_timeout=0.5) as running:
        running["a"].set_faults([faults.Hang()])
        response = await running.http.post("/api/chat", json=chat())
        assert (response.status_code, response.json()) == (504, {"error": BEFORE})


@pytest.mark.rule(161)
async def test_requests_beyond_max_queue_are_refused_and_counted(tmp_path: Path) -> None:
    narrow = Options(model=MODEL, tokens_per_second=500, ttft=0.01, answer_tokens=12, slots=1)
    async with fleet(tmp_path, {"a": narrow}, max_queue=2) as running:
        running["a"].set_faults([faults.Freeze(seconds=600)])
        asked = [asyncio.create_task(running.http.post("/api/chat", json=chat())) for _ in range(8)]
        await auntil(lambda: sum(task.done() for task in asked) == 4, 15, "half of them to be refused")
        running["a"].set_faults([faults.Freeze(seconds=0)])
        answers = await asyncio.gather(*asked)
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [200] * 4 + [503] * 4  # one runs, one waits in the worker, two in the router
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert refused.json() == {"error": "server busy, please try again.  maximum pending requests exceeded"}
        await auntil(lambda: len(running.records()) == 8, 5, "all log lines")
        assert [record["outcome"] for record in running.records()].count("refused") == 4
        page = (await running.http.get("/metrics")).text
        counted = [line for line in page.splitlines() if 'status="503"' in line and f'model="{MODEL}"' in line]
        assert [line.rpartition(" ")[2] for line in counted if line.startswith("vllama_requests_total")] == ["4.0"]
        assert (await running.http.post("/api/chat", json=chat())).status_code == 200
