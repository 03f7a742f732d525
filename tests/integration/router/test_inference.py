"""Requests through a live router to simulated workers: answers, retries and errors."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.fleet.live import Fleet, fleet
from tests.support.until import auntil
from vllama_pool.config.api_keys import ApiKey, digest
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

MODEL = "tiny:latest"
TOKENS = 13
"""Tokens per answer: twelve and the end of the sequence."""
QUICK = Options(model=MODEL, tokens_per_second=500, ttft=0.01, answer_tokens=12, per_request_metrics=True)
pytestmark = pytest.mark.asyncio(loop_scope="module")
SLOW = Options(model=MODEL, tokens_per_second=20, ttft=0.01, answer_tokens=200)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def calm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """Two workers shared by the tests that set no faults."""
    async with fleet(tmp_path_factory.mktemp("state"), {"a": QUICK, "b": QUICK}) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def pair(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, {"a": QUICK, "b": QUICK}) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def slow_pair(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, {"a": SLOW, "b": SLOW}) as running:
        yield running


def chat(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **more}


def sent(running: Fleet) -> int:
    """Chats and completions that the workers have received."""
    return sum(
        running[name].requests[path] for name in running.workers for path in ("/v1/chat/completions", "/v1/completions")
    )


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.text.endswith("\n")
    return [json.loads(line) for line in response.text.removesuffix("\n").split("\n")]


def text_of(parts: list[dict[str, Any]]) -> str:
    return "".join(part["message"]["content"] for part in parts if "message" in part)


async def test_a_whole_chat_has_the_same_text_as_a_streamed_one(calm: Fleet) -> None:
    streamed = lines(await calm.http.post("/api/chat", json=chat()))
    whole = await calm.http.post("/api/chat", json=chat(stream=False))
    assert whole.json()["message"]["content"] == text_of(streamed)
    assert streamed[-1]["eval_count"] == whole.json()["eval_count"] == TOKENS


async def test_a_whole_generate_has_the_same_text_as_a_streamed_one(calm: Fleet) -> None:
    streamed = lines(await calm.http.post("/api/generate", json={"model": "tiny", "prompt": "hello"}))
    whole = (await calm.http.post("/api/generate", json={"model": "tiny", "prompt": "hello", "stream": False})).json()
    assert whole["response"] == "".join(part["response"] for part in streamed)


@pytest.mark.rule(46, 167)
@pytest.mark.trap(4)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "fault",
    [
        faults.Refuse(),
        faults.Status(status=500),
        faults.Status(status=502),
        faults.Status(status=503),
        faults.Status(status=429),
        faults.Cut(after_tokens=0),
        faults.Cut(after_tokens=0, reset=True),
        faults.Error(after_tokens=0, status=500),
        faults.Error(after_tokens=0, status=503),
        faults.Garbage(where="head"),
        faults.Empty(),
        faults.Draining(),
        faults.Dead(),
    ],
    ids=repr,
)
async def test_a_failure_before_the_first_token_is_retried_on_another_worker(
    pair: Fleet, fault: faults.Fault, stream: bool
) -> None:
    pair["a"].set_faults([fault])
    for _ in range(6):
        response = await pair.http.post("/api/chat", json=chat(stream=stream))
        assert response.status_code == 200, response.text
        assert "error" not in response.text
    assert pair["b"].tokens == 6 * TOKENS


@pytest.mark.rule(48)
@pytest.mark.parametrize(
    "fault", [faults.Cut(after_tokens=5), faults.Error(after_tokens=5), faults.Die(after_tokens=5)]
)
async def test_a_whole_answer_that_breaks_off_is_retried(pair: Fleet, fault: faults.Fault) -> None:
    pair["a"].set_faults([fault])
    discarded = 0
    for number in range(20):
        request_id = f"retried-{number}"
        headers = {"x-request-id": request_id}
        response = await pair.http.post("/api/chat", json=chat(stream=False), headers=headers)
        assert response.status_code == 200, response.text
        assert response.json()["eval_count"] == TOKENS
        record = await pair.record(request_id)
        assert record["completion_tokens"] == TOKENS
        discarded += record.get("discarded_tokens", 0)
    assert discarded > 0, "the broken attempts generated tokens"


@pytest.mark.rule(48)
@pytest.mark.parametrize("fault", [faults.Cut(after_tokens=5), faults.Error(after_tokens=5)])
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_a_whole_answer_that_breaks_off_everywhere_becomes_an_error_without_text(
    pair: Fleet, path: str, fault: faults.Fault
) -> None:
    for name in ("a", "b"):
        pair[name].set_faults([fault])
    response = await pair.http.post(path, json=chat(stream=False, prompt="hello"))
    assert response.status_code >= 500
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert list(response.json()) == ["error"]
    assert "Simulated" not in response.text


@pytest.mark.rule(47, 163)
@pytest.mark.trap(4)
@pytest.mark.parametrize(
    "fault", [faults.Cut(after_tokens=5), faults.Error(after_tokens=5), faults.Die(after_tokens=5)]
)
async def test_a_stream_that_breaks_off_ends_with_one_error_line(pair: Fleet, fault: faults.Fault) -> None:
    for name in ("a", "b"):
        pair[name].set_faults([fault])
    response = await pair.http.post("/api/chat", json=chat())
    parts = lines(response)
    assert response.status_code == 200
    assert set(parts[-1]) == {"error"}
    assert parts[-1]["error"].startswith("an error was encountered while running the model: ")
    assert text_of(parts[:-1])
    assert not any(part.get("done") for part in parts)


@pytest.mark.rule(167)
async def test_a_400_from_a_worker_is_not_retried(pair: Fleet) -> None:
    for name in ("a", "b"):
        pair[name].set_faults([faults.Status(status=400)])
    response = await pair.http.post("/api/chat", json=chat(), headers={"x-request-id": "fault-1"})
    assert response.status_code == 400
    assert isinstance(response.json()["error"], str)
    record = await pair.record("fault-1")
    assert record["attempts"] == 1
    assert record["failures"] == ["Refused"]


@pytest.mark.rule(167)
@pytest.mark.parametrize("status", [400, 413, 422, 429, 503])
@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_status_that_every_worker_returns_reaches_the_client(
    pair: Fleet, status: int, stream: bool
) -> None:
    for name in ("a", "b"):
        pair[name].set_faults([faults.Status(status=status)])
    response = await pair.http.post("/api/chat", json=chat(stream=stream))
    assert response.status_code == status
    assert isinstance(response.json()["error"], str)


async def test_a_request_that_makes_workers_fail_is_tried_twice_only(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": QUICK, "b": QUICK, "c": QUICK}) as running:
        for name in running.workers:
            running[name].set_faults([faults.Status(status=500, marker="poison")])
        response = await running.http.post("/api/chat", json=chat("poison"), headers={"x-request-id": "poison-1"})
        assert response.status_code == 500
        assert (await running.record("poison-1"))["attempts"] == 2


async def test_if_every_worker_is_busy_the_503_carries_retry_after(pair: Fleet) -> None:
    for name in ("a", "b"):
        pair[name].set_faults([faults.Status(status=503)])
    response = await pair.http.post("/api/chat", json=chat())
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    assert isinstance(response.json()["error"], str)


async def test_a_model_whose_workers_all_drain_is_refused_at_once(pair: Fleet) -> None:
    for name in ("a", "b"):
        pair.workers[name].state = pair.workers[name].state.DRAINING

    async def drained() -> bool:
        return set((await pair.states()).values()) == {"draining"}

    await auntil(drained, 5, "both workers to drain")
    response = await pair.http.post("/api/chat", json=chat(), timeout=20)
    assert response.status_code == 503
    assert "no worker is available for model 'tiny'" in response.json()["error"]
    assert "retry-after" in response.headers
    page = (await pair.http.get("/metrics")).text
    assert f'vllama_requests_total{{model="{MODEL}",operation="chat",status="503"}} 1.0' in page


@pytest.mark.rule(166)
@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"model": "nope", "think": "x"}, 'invalid think value: "x"'),
        ({"model": "", "top_logprobs": 21}, "top_logprobs must be between 0 and 20"),
    ],
)
async def test_the_first_of_two_errors_is_the_one_ollama_reports(calm: Fleet, body: dict[str, Any], error: str) -> None:
    response = await calm.http.post("/api/generate", json={"model": "tiny", "prompt": "x"} | body)
    assert response.json()["error"].startswith(error)


@pytest.mark.rule(137)
async def test_stop_strings_beyond_the_workers_limit_are_dropped(calm: Fleet) -> None:
    for path in ("/api/chat", "/api/generate"):
        body = chat(stream=False, options={"stop": [" two", "%", "&", "#", "!", "?"]}, prompt="hello")
        response = await calm.http.post(path, json=body, headers={"x-request-id": path[5:]})
        assert response.status_code == 200, response.text
        answer = response.json()
        assert (answer.get("response") or answer["message"]["content"]).endswith("I count: one")
        assert (await calm.record(path[5:]))["attempts"] == 1


@pytest.mark.rule(58, 87)
async def test_load_and_unload_send_nothing_to_a_worker(calm: Fleet) -> None:
    before = sent(calm)
    loaded = await calm.http.post("/api/chat", json={"model": "tiny"})
    assert loaded.json()["done_reason"] == "load"
    unloaded = await calm.http.post("/api/generate", json={"model": "tiny", "keep_alive": 0})
    assert unloaded.json()["done_reason"] == "unload"
    assert sent(calm) == before


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_disconnects_stops_its_request_and_its_tokens_are_counted(
    slow_pair: Fleet, stream: bool
) -> None:
    def running() -> int:
        return slow_pair["a"].running + slow_pair["b"].running

    task = asyncio.create_task(
        slow_pair.http.post("/api/chat", json=chat(stream=stream), headers={"x-request-id": "left-1"})
    )
    made = slow_pair["a"].tokens + slow_pair["b"].tokens
    await auntil(lambda: slow_pair["a"].tokens + slow_pair["b"].tokens >= made + 3, 5, "some tokens")
    task.cancel()
    await auntil(lambda: running() == 0, 5, "the worker to be rid of it")
    record = await slow_pair.record("left-1")
    assert record["outcome"] == "client gone"
    assert record["attempts"] == 1
    counted = record.get("completion_tokens", 0) + record.get("discarded_tokens", 0)
    assert 1 <= counted <= slow_pair["a"].tokens + slow_pair["b"].tokens - made
    workers = (await slow_pair.http.get("/admin/workers")).json()["workers"]
    assert {worker["breaker"] for worker in workers} == {"closed"}
    assert {worker["in_flight"] for worker in workers} == {0}


async def test_a_hundred_disconnects_at_once_leave_no_request_in_flight(slow_pair: Fleet) -> None:
    tasks = [asyncio.create_task(slow_pair.http.post("/api/chat", json=chat())) for _ in range(100)]
    await auntil(lambda: slow_pair["a"].running + slow_pair["b"].running == 16, 10, "both workers to be full")
    for task in tasks:
        task.cancel()
    await auntil(lambda: slow_pair["a"].running + slow_pair["b"].running == 0, 5, "all to be aborted")

    async def at_rest() -> bool:
        workers = (await slow_pair.http.get("/admin/workers")).json()["workers"]
        return all(worker["in_flight"] == 0 for worker in workers)

    await auntil(at_rest, 5, "the router to be at rest")


async def test_requests_to_a_worker_that_hangs_and_stops_beating_are_retried(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": QUICK, "b": QUICK}) as running:
        running["a"].set_faults([faults.Freeze(seconds=60)])
        started = [asyncio.create_task(running.http.post("/api/chat", json=chat())) for _ in range(8)]
        await running.workers["a"].fall_silent()
        answers = await asyncio.wait_for(asyncio.gather(*started), 30)
        assert {answer.status_code for answer in answers} == {200}
        assert not any("error" in answer.text for answer in answers)


async def test_the_request_log_has_one_line_per_request_without_the_prompt(calm: Fleet) -> None:
    await calm.http.post("/api/chat", json=chat("a secret prompt"), headers={"x-request-id": "line-1"})
    record = await calm.record("line-1")
    assert record["operation"] == "chat"
    assert record["model"] == MODEL
    assert record["worker"] in {"a", "b"}
    assert record["status"] == 200
    assert record["outcome"] == "complete"
    assert record["completion_tokens"] == TOKENS
    assert 0 < record["first_ms"] <= record["total_ms"]
    assert b"secret" not in calm.log.getvalue()


async def test_a_request_id_is_echoed_unless_it_is_too_long(calm: Fleet) -> None:
    kept = await calm.http.get("/api/version", headers={"x-request-id": "my-id.1"})
    assert kept.headers["x-request-id"] == "my-id.1"
    made = await calm.http.get("/api/version", headers={"x-request-id": "x" * 65})
    assert made.headers["x-request-id"] != "x" * 65


async def test_names_of_unknown_models_are_not_metric_labels(pair: Fleet) -> None:
    await pair.http.post("/api/chat", json=chat() | {"model": "made-up-by-a-client"})
    await pair.http.post("/api/chat", json=chat())
    page = (await pair.http.get("/metrics")).text
    assert 'vllama_requests_total{model="unknown",operation="chat",status="404"} 1.0' in page
    assert f'vllama_requests_total{{model="{MODEL}",operation="chat",status="200"}} 1.0' in page
    assert 'vllama_worker_up{worker="a"} 1.0' in page
    assert "made-up" not in page


async def test_api_keys_are_required_once_configured(tmp_path: Path) -> None:
    keys = (ApiKey("team", digest("secret")),)
    async with fleet(tmp_path, {"a": QUICK}, api_keys=keys) as running:
        refused = await running.http.post("/api/chat", json=chat())
        assert (refused.status_code, refused.json()) == (401, {"error": "unauthorized"})
        headers = {"authorization": "Bearer secret", "x-request-id": "key-1"}
        assert (await running.http.post("/api/chat", json=chat(), headers=headers)).status_code == 200
        assert (await running.record("key-1"))["client"] == "team"
