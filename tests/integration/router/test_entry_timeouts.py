"""`timeouts` and `retries` of an entry of the routing file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet.live import Fleet, fleet
from tests.support.tables import routing_table
from tests.support.until import auntil
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

TINY = Options(model="tiny", tokens_per_second=5000, ttft=0.001, answer_tokens=8, slots=32)
HELLO = [{"role": "user", "content": "hello"}]


def table(**entry: Any) -> Any:
    return routing_table(models={"m": {"serve": "tiny", **entry}, "usual": {"serve": "tiny"}})


async def chat(running: Fleet, model: str = "m", path: str = "/api/chat", **fields: Any) -> Any:
    return await running.http.post(
        path, json={"model": model, "messages": HELLO, **fields}, headers={"x-request-id": model}
    )


@pytest.mark.parametrize(
    ("timeouts", "fault", "path", "text"),
    [
        ({"first_content": 0.5}, faults.Hang(), "/api/chat", "did not begin to answer within 0.5 s"),
        ({"answer": 0.5}, faults.Hang(), "/v1/chat/completions", "did not complete its answer within 0.5 s"),
        ({"stall": 0.5}, faults.Stall(after_tokens=3), "/api/chat", "fell silent for 0.5 s"),
    ],
)
async def test_an_entrys_time_limit_replaces_the_setting(
    tmp_path: Path, timeouts: dict[str, float], fault: faults.RequestFault, path: str, text: str
) -> None:
    async with fleet(tmp_path, {"a": TINY}, table=table(timeouts=timeouts)) as running:
        running["a"].set_faults([fault])
        late = await chat(running, path=path, stream=path == "/api/chat")
        assert text in late.text
        await auntil(lambda: running["a"].running == 0, 10, "the worker to be free")


async def test_a_time_limit_may_lead_to_a_fallback(tmp_path: Path) -> None:
    workers = {"a": TINY, "b": replace(TINY, model="spare")}
    entry = {"timeouts": {"first_content": 0.5}, "fallback": {"error": ["spare"]}}
    async with fleet(tmp_path, workers, table=table(**entry)) as running:
        running["a"].set_faults([faults.Hang()])
        answered = await chat(running, stream=False)
        assert (answered.status_code, answered.json()["model"]) == (200, "m")
        assert (await running.record("m"))["worker"] == "b"


@pytest.mark.parametrize(("retries", "attempts"), [({"attempts": 1}, 1), ({"attempts": 5, "budget": 1}, 5)])
async def test_an_entry_has_its_own_number_of_attempts(tmp_path: Path, retries: dict[str, Any], attempts: int) -> None:
    workers = {f"w{number}": TINY for number in range(6)}
    async with fleet(tmp_path, workers, table=table(retries=retries)) as running:
        for worker in workers:
            running[worker].set_faults([faults.Status(status=429)])
        assert (await chat(running)).status_code == 429
        assert (await running.record("m"))["attempts"] == attempts
        assert (await chat(running, "usual")).status_code == 429
        assert (await running.record("usual"))["attempts"] == 3
