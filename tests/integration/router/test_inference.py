"""Requests through a live router to simulated workers: answers, failover, and what clients are told."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.live import Fleet, fleet
from tests.support.until import auntil
from vllama_pool.config.api_keys import ApiKey, digest
from vllama_pool.workers.simulated import script
from vllama_pool.workers.simulated.options import Options

MODEL = "tiny:latest"
TOKENS = 13
"""Of an answer: twelve and the end of the sequence."""
QUICK = Options(model=MODEL, tokens_per_second=500, ttft=0.01, answer_tokens=12, per_request_metrics=True)
SLOW = Options(model=MODEL, tokens_per_second=20, ttft=0.01, answer_tokens=200)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, {"a": QUICK, "b": QUICK}) as running:
        yield running


@pytest.fixture
async def slow_pair(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, {"a": SLOW, "b": SLOW}) as running:
        yield running


def chat(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **more}


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.text.endswith("\n")
    return [json.loads(line) for line in response.text.removesuffix("\n").split("\n")]


def text_of(parts: list[dict[str, Any]]) -> str:
    return "".join(part["message"]["content"] for part in parts if "message" in part)


@pytest.mark.rule(24, 44, 71)
async def test_a_streamed_chat_is_ndjson_that_ends_with_done(pair: Fleet) -> None:
    response = await pair.http.post("/api/chat", json=chat())
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/x-ndjson"
    parts = lines(response)
    assert [part["done"] for part in parts] == [False] * (len(parts) - 1) + [True]
    assert {part["model"] for part in parts} == {"tiny"}
    assert parts[-1]["eval_count"] == TOKENS
    assert parts[-1]["done_reason"] == "stop"


async def test_not_streamed_gives_the_same_text_in_one_object(pair: Fleet) -> None:
    streamed = lines(await pair.http.post("/api/chat", json=chat()))
    whole = await pair.http.post("/api/chat", json=chat(stream=False))
    assert whole.headers["content-type"] == "application/json; charset=utf-8"
    assert whole.json()["message"]["content"] == text_of(streamed)


@pytest.mark.rule(23, 43, 55)
async def test_generate_answers_both_ways_and_streams_unless_told_not_to(pair: Fleet) -> None:
    streamed = lines(await pair.http.post("/api/generate", json={"model": "tiny", "prompt": "hello"}))
    whole = (await pair.http.post("/api/generate", json={"model": "tiny", "prompt": "hello", "stream": False})).json()
    assert whole["response"] == "".join(part["response"] for part in streamed)
    assert whole["context"]


@pytest.mark.rule(46, 167)
@pytest.mark.trap(4)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "fault",
    [
        script.Refuse(),
        script.Status(status=500),
        script.Status(status=502),
        script.Status(status=503),
        script.Status(status=429),
        script.Cut(after_tokens=0),
        script.Cut(after_tokens=0, reset=True),
        script.Error(after_tokens=0, status=500),
        script.Error(after_tokens=0, status=503),
        script.Garbage(where="head"),
        script.Empty(),
        script.Draining(),
        script.Dead(),
    ],
    ids=repr,
)
async def test_a_worker_that_fails_before_its_first_token_costs_the_client_nothing(
    pair: Fleet, fault: script.Fault, stream: bool
) -> None:
    pair["a"].set_faults([fault])
    for _ in range(6):
        response = await pair.http.post("/api/chat", json=chat(stream=stream))
        assert response.status_code == 200, response.text
        assert "error" not in response.text
    assert pair["b"].tokens == 6 * TOKENS


@pytest.mark.rule(48)
@pytest.mark.parametrize(
    "fault", [script.Cut(after_tokens=5), script.Error(after_tokens=5), script.Die(after_tokens=5)]
)
async def test_a_whole_answer_that_breaks_is_asked_for_again(pair: Fleet, fault: script.Fault) -> None:
    pair["a"].set_faults([fault])
    for _ in range(4):
        response = await pair.http.post("/api/chat", json=chat(stream=False))
        assert response.status_code == 200, response.text
        assert response.json()["eval_count"] == TOKENS


@pytest.mark.rule(48)
@pytest.mark.parametrize("fault", [script.Cut(after_tokens=5), script.Error(after_tokens=5)])
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_a_whole_answer_that_breaks_everywhere_is_an_error_and_none_of_its_text(
    pair: Fleet, path: str, fault: script.Fault
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
    "fault", [script.Cut(after_tokens=5), script.Error(after_tokens=5), script.Die(after_tokens=5)]
)
async def test_a_stream_that_breaks_ends_with_one_error_line(pair: Fleet, fault: script.Fault) -> None:
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
async def test_a_request_at_fault_is_not_tried_elsewhere(pair: Fleet) -> None:
    for name in ("a", "b"):
        pair[name].set_faults([script.Status(status=400)])
    response = await pair.http.post("/api/chat", json=chat(), headers={"x-request-id": "fault-1"})
    assert response.status_code == 400
    assert isinstance(response.json()["error"], str)
    record = await pair.record("fault-1")
    assert record["attempts"] == 1
    assert record["failures"] == ["Refused"]


@pytest.mark.rule(167)
@pytest.mark.parametrize("status", [400, 413, 422, 429, 503])
@pytest.mark.parametrize("stream", [True, False])
async def test_what_every_worker_says_keeps_its_status(pair: Fleet, status: int, stream: bool) -> None:
    for name in ("a", "b"):
        pair[name].set_faults([script.Status(status=status)])
    response = await pair.http.post("/api/chat", json=chat(stream=stream))
    assert response.status_code == status
    assert isinstance(response.json()["error"], str)


async def test_a_poison_request_is_tried_twice_and_then_refused(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": QUICK, "b": QUICK, "c": QUICK}) as running:
        for name in running.workers:
            running[name].set_faults([script.Status(status=500, marker="poison")])
        response = await running.http.post("/api/chat", json=chat("poison"), headers={"x-request-id": "poison-1"})
        assert response.status_code == 500
        assert (await running.record("poison-1"))["attempts"] == 2


async def test_when_every_worker_is_busy_the_client_is_told_when_to_come_back(pair: Fleet) -> None:
    for name in ("a", "b"):
        pair[name].set_faults([script.Status(status=503)])
    response = await pair.http.post("/api/chat", json=chat())
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    assert isinstance(response.json()["error"], str)


async def test_a_model_without_a_live_worker_is_refused_at_once(pair: Fleet) -> None:
    for name in ("a", "b"):
        pair.workers[name].state = pair.workers[name].state.DRAINING

    async def drained() -> bool:
        return set((await pair.states()).values()) == {"draining"}

    await auntil(drained, 5, "both workers to drain")
    response = await pair.http.post("/api/chat", json=chat(), timeout=2)
    assert response.status_code == 503
    assert "no worker is available for model 'tiny'" in response.json()["error"]
    assert "retry-after" in response.headers
    page = (await pair.http.get("/metrics")).text
    assert f'vllama_requests_total{{model="{MODEL}",operation="chat",status="503"}} 1.0' in page


@pytest.mark.rule(46, 148)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_unknown_model_is_404_in_ollamas_words_also_for_a_stream(pair: Fleet, stream: bool) -> None:
    response = await pair.http.post("/api/chat", json=chat(stream=stream) | {"model": "nope"})
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("application/json")
    assert response.json() == {"error": "model 'nope' not found"}


@pytest.mark.rule(45, 49)
@pytest.mark.trap(10)
@pytest.mark.parametrize("name", ["tiny", "Tiny:LATEST", "tiny:latest", "library/tiny"])
async def test_a_model_is_found_by_any_spelling_and_echoed_in_that(pair: Fleet, name: str) -> None:
    answer = (await pair.http.post("/api/generate", json={"model": name, "prompt": "hello", "stream": False})).json()
    assert answer["model"] == name


@pytest.mark.rule(166)
@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"model": "nope", "options": {"seed": "x"}}, "model 'nope' not found"),
        ({"model": "nope", "think": "x"}, 'invalid think value: "x"'),
        ({"model": "", "top_logprobs": 21}, "top_logprobs must be between 0 and 20"),
        ({"options": {"seed": "x"}}, 'option "seed" must be of type integer'),
    ],
)
async def test_the_first_of_two_errors_is_ollamas(pair: Fleet, body: dict[str, Any], error: str) -> None:
    response = await pair.http.post("/api/generate", json={"model": "tiny", "prompt": "x"} | body)
    assert response.json()["error"].startswith(error)


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"", 400, "missing request body"),
        (b"{", 400, "unexpected EOF"),
        (b"x", 400, "invalid character 'x' looking for beginning of value"),
        (b'{"model":"tiny","stream":"yes"}', 400, "json: cannot unmarshal string"),
        (b'{"messages":[]}', 400, "model is required"),
    ],
)
async def test_bad_bodies_get_ollamas_status_and_text(pair: Fleet, body: bytes, status: int, error: str) -> None:
    response = await pair.http.post("/api/chat", content=body)
    assert response.status_code == status
    assert response.json()["error"].startswith(error)


async def test_a_body_over_the_limit_is_413(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": QUICK}, body_limit=2**20) as running:
        for sent in ({"content": b" " * (2**20 + 1)}, {"content": _pieces(2**20 + 1)}):
            response = await running.http.post("/api/chat", **sent)  # type: ignore[arg-type]
            assert response.status_code == 413
            assert "larger than 1 MiB" in response.json()["error"]


async def _pieces(size: int) -> AsyncIterator[bytes]:
    while size > 0:
        yield b" " * min(size, 65536)
        size -= 65536


async def test_wrong_method_and_unknown_path(pair: Fleet) -> None:
    wrong = await pair.http.get("/api/chat")
    assert (wrong.status_code, wrong.text) == (405, "405 method not allowed")
    unknown = await pair.http.get("/api/nothing")
    assert (unknown.status_code, unknown.text) == (404, "404 page not found")


@pytest.mark.rule(137)
async def test_more_stop_strings_than_a_worker_takes_are_no_reason_to_fail(pair: Fleet) -> None:
    for path in ("/api/chat", "/api/generate"):
        body = chat(stream=False, options={"stop": [" two", "%", "&", "#", "!", "?"]}, prompt="hello")
        response = await pair.http.post(path, json=body, headers={"x-request-id": path[5:]})
        assert response.status_code == 200, response.text
        answer = response.json()
        assert (answer.get("response") or answer["message"]["content"]).endswith("I count: one")
        assert (await pair.record(path[5:]))["attempts"] == 1


@pytest.mark.rule(58, 87)
async def test_load_and_unload_need_no_worker_to_work(pair: Fleet) -> None:
    loaded = await pair.http.post("/api/chat", json={"model": "tiny"})
    assert loaded.json()["done_reason"] == "load"
    for keep_alive in (0, "0", "0s"):
        unloaded = await pair.http.post("/api/generate", json={"model": "tiny", "keep_alive": keep_alive})
        assert unloaded.json()["done_reason"] == "unload"
    wrong = await pair.http.post("/api/generate", json={"model": "tiny", "prompt": "x", "keep_alive": "5"})
    assert (wrong.status_code, wrong.json()) == (400, {"error": 'time: missing unit in duration "5"'})
    assert pair["a"].tokens + pair["b"].tokens == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_stops_its_request_on_the_worker(slow_pair: Fleet, stream: bool) -> None:
    def running() -> int:
        return slow_pair["a"].running + slow_pair["b"].running

    task = asyncio.create_task(
        slow_pair.http.post("/api/chat", json=chat(stream=stream), headers={"x-request-id": "left-1"})
    )
    await auntil(lambda: running() == 1, 5, "the request to run")
    task.cancel()
    await auntil(lambda: running() == 0, 1, "the worker to be rid of it")
    record = await slow_pair.record("left-1")
    assert record["outcome"] == "client gone"
    assert record["attempts"] == 1
    workers = (await slow_pair.http.get("/admin/workers")).json()["workers"]
    assert {worker["breaker"] for worker in workers} == {"closed"}
    assert {worker["in_flight"] for worker in workers} == {0}


async def test_a_hundred_clients_that_leave_at_once_leave_nothing_behind(slow_pair: Fleet) -> None:
    tasks = [asyncio.create_task(slow_pair.http.post("/api/chat", json=chat())) for _ in range(100)]
    await auntil(lambda: slow_pair["a"].running + slow_pair["b"].running == 16, 10, "both workers to be full")
    for task in tasks:
        task.cancel()
    await auntil(lambda: slow_pair["a"].running + slow_pair["b"].running == 0, 2, "all to be aborted")

    async def at_rest() -> bool:
        workers = (await slow_pair.http.get("/admin/workers")).json()["workers"]
        return all(worker["in_flight"] == 0 for worker in workers)

    await auntil(at_rest, 5, "the router to be at rest")


async def test_a_silent_worker_that_hangs_is_given_up(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": QUICK, "b": QUICK}) as running:
        running["a"].set_faults([script.Freeze(seconds=60)])
        started = [asyncio.create_task(running.http.post("/api/chat", json=chat())) for _ in range(8)]
        await running.workers["a"].fall_silent()
        answers = await asyncio.wait_for(asyncio.gather(*started), 20)
        assert {answer.status_code for answer in answers} == {200}
        assert not any("error" in answer.text for answer in answers)


async def test_every_request_leaves_one_line_in_the_log_and_no_prompt(pair: Fleet) -> None:
    await pair.http.post("/api/chat", json=chat("a secret prompt"), headers={"x-request-id": "line-1"})
    record = await pair.record("line-1")
    assert record["operation"] == "chat"
    assert record["model"] == MODEL
    assert record["worker"] in {"a", "b"}
    assert record["status"] == 200
    assert record["outcome"] == "complete"
    assert record["completion_tokens"] == TOKENS
    assert 0 < record["first_ms"] <= record["total_ms"]
    assert b"secret" not in pair.log.getvalue()


async def test_request_ids_are_echoed_only_if_harmless(pair: Fleet) -> None:
    kept = await pair.http.get("/api/version", headers={"x-request-id": "my-id.1"})
    assert kept.headers["x-request-id"] == "my-id.1"
    made = await pair.http.get("/api/version", headers={"x-request-id": "x" * 65})
    assert made.headers["x-request-id"] != "x" * 65


async def test_unknown_models_make_no_metric_labels(pair: Fleet) -> None:
    await pair.http.post("/api/chat", json=chat() | {"model": "made-up-by-a-client"})
    await pair.http.post("/api/chat", json=chat())
    page = (await pair.http.get("/metrics")).text
    assert 'vllama_requests_total{model="unknown",operation="chat",status="404"} 1.0' in page
    assert f'vllama_requests_total{{model="{MODEL}",operation="chat",status="200"}} 1.0' in page
    assert 'vllama_worker_up{worker="a"} 1.0' in page
    assert "made-up" not in page


async def test_keys_are_asked_for_where_they_are_set(tmp_path: Path) -> None:
    keys = (ApiKey("team", digest("secret")),)
    async with fleet(tmp_path, {"a": QUICK}, api_keys=keys) as running:
        refused = await running.http.post("/api/chat", json=chat())
        assert (refused.status_code, refused.json()) == (401, {"error": "unauthorized"})
        headers = {"authorization": "Bearer secret", "x-request-id": "key-1"}
        assert (await running.http.post("/api/chat", json=chat(), headers=headers)).status_code == 200
        assert (await running.record("key-1"))["client"] == "team"


async def test_foreign_hosts_and_origins_are_refused_with_an_empty_403(pair: Fleet) -> None:
    for headers in ({"host": "evil.example.com"}, {"origin": "https://evil.example.com"}):
        response = await pair.http.post("/api/chat", json=chat(), headers=headers)
        assert (response.status_code, response.content) == (403, b"")
    page = await pair.http.post("/api/chat", json=chat(), headers={"origin": "http://localhost:3000"})
    assert page.headers["access-control-allow-origin"] == "http://localhost:3000"
