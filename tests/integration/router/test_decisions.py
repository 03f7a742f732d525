"""The decisions of a running router: GET /admin/decisions and /admin/explain?request=ID."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from tests.support.fleet.live import Fleet, fleet
from vllama_pool.router.telemetry.decision_view import DecisionView
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

QUICK = Options(model="tiny:latest", tokens_per_second=2000, ttft=0.0, answer_tokens=5)
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    workers = {"a": QUICK, "b": QUICK}
    async with fleet(tmp_path_factory.mktemp("state"), workers, decisions=5) as one:
        yield one


async def chat(running: Fleet, request_id: str, text: str = "hello", model: str = "tiny") -> int:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}], "stream": False}
    answer = await running.http.post("/api/chat", json=body, headers={"x-request-id": request_id})
    return answer.status_code


async def explain(running: Fleet, request_id: str) -> DecisionView:
    answer = await running.http.get("/admin/explain", params={"request": request_id})
    assert answer.status_code == 200, answer.text
    return msgspec.json.decode(answer.content, type=DecisionView)


async def test_a_past_request_is_explained_by_its_id(running: Fleet) -> None:
    assert await chat(running, "one") == 200
    decision = await explain(running, "one")
    assert (decision.operation, decision.requested, decision.model) == ("chat", "tiny", "tiny:latest")
    assert (decision.status, decision.outcome) == (200, "complete")
    assert decision.worker in ("a", "b")
    assert [attempt.worker for attempt in decision.attempts] == [decision.worker]
    assert decision.prompt_tokens > 0
    assert decision.completion_tokens > 0


async def test_every_attempt_has_its_worker_and_its_failure(running: Fleet) -> None:
    for name in ("a", "b"):
        running[name].set_faults([faults.Status(status=502, count=1)])
    assert await chat(running, "two") == 502
    decision = await explain(running, "two")
    assert sorted(attempt.worker for attempt in decision.attempts) == ["a", "b"]
    assert {attempt.failure for attempt in decision.attempts} == {"Unavailable"}


async def test_an_unknown_model_has_a_decision_without_attempts(running: Fleet) -> None:
    assert await chat(running, "three", model="unheard-of") == 404
    decision = await explain(running, "three")
    assert (decision.requested, decision.model, decision.attempts) == ("unheard-of", "", ())


async def test_recorded_decisions_are_json_lines_without_prompts(running: Fleet) -> None:
    for number in range(7):
        await chat(running, f"n{number}", text="the secret word is xyzzy")
    answer = await running.http.get("/admin/decisions")
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert "xyzzy" not in answer.text
    lines = [msgspec.json.decode(line, type=DecisionView) for line in answer.content.splitlines()]
    assert [line.id for line in lines] == [f"n{number}" for number in range(2, 7)]


async def test_an_unknown_request_id_says_how_far_back_the_store_goes(running: Fleet) -> None:
    answer = await running.http.get("/admin/explain", params={"request": "unheard-of"})
    assert answer.status_code == 404
    assert answer.json()["error"].startswith(
        "request 'unheard-of' is unknown: the router keeps its latest 5 decisions, which go back to 20"
    )


@pytest.mark.parametrize("params", [{}, {"request": ""}, {"request": "a\nb"}, {"request": "x" * 65}])
async def test_a_question_without_a_usable_id_is_refused(running: Fleet, params: dict[str, str]) -> None:
    assert (await running.http.get("/admin/explain", params=params)).status_code == 400


async def test_a_router_that_keeps_no_decisions_says_which_setting_does(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": QUICK}, decisions=0) as one:
        assert await chat(one, "one") == 200
        answer = await one.http.get("/admin/explain", params={"request": "one"})
    assert answer.status_code == 404
    assert answer.json()["error"] == "the router keeps no decisions; set VLLAMA_DECISIONS to a number above 0"
