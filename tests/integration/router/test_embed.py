"""Embeddings through a live router to simulated workers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.fleet.live import Fleet, fleet
from tests.support.tables import routing_table
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

MINILM = Options(model="all-minilm", embedding=True, max_model_len=64, dimensions=32)
CHAT = Options(model="chat")
LONG = " one two three" * 50
"""Each word with its leading space is one token."""
TOO_LONG = {"error": "the input length exceeds the context length"}


WORKERS = {"a": MINILM, "b": MINILM, "chat": CHAT}
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path_factory.mktemp("state"), WORKERS) as made:
        yield made


async def embed(running: Fleet, texts: Any = "why", status: int = 200, **more: Any) -> dict[str, Any]:
    response = await running.http.post("/api/embed", json={"model": "all-minilm", "input": texts, **more})
    return answered(response, status)


async def embed_legacy(running: Fleet, prompt: str, status: int = 200, **more: Any) -> dict[str, Any]:
    response = await running.http.post("/api/embeddings", json={"model": "all-minilm", "prompt": prompt, **more})
    return answered(response, status)


def answered(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    found: dict[str, Any] = response.json()
    return found


def received(running: Fleet) -> int:
    """Requests for embeddings that the workers have received."""
    return sum(running[name].requests["/v1/embeddings"] for name in running.workers)


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


@pytest.mark.rule(26)
@pytest.mark.trap(15)
async def test_vectors_of_the_older_endpoint_are_not_normalised(running: Fleet) -> None:
    found = await embed_legacy(running, "why")
    assert math.hypot(*found["embedding"]) != pytest.approx(1.0)
    assert cosine(found["embedding"], (await embed(running))["embeddings"][0]) == pytest.approx(1.0)


async def test_a_batch_keeps_its_order_and_sums_its_tokens(running: Fleet) -> None:
    texts = [f"text {index}" for index in range(40)] + ["", "text 0"]
    found = await embed(running, texts)
    alone = [await embed(running, [text]) for text in texts]
    assert found["embeddings"] == [one["embeddings"][0] for one in alone]
    assert found["prompt_eval_count"] == sum(one["prompt_eval_count"] for one in alone)


@pytest.mark.rule(91, 100)
@pytest.mark.trap(15)
@pytest.mark.parametrize("texts", ["", None, []], ids=repr)
async def test_a_load_sends_nothing_to_a_worker(running: Fleet, texts: Any) -> None:
    before = received(running)
    await embed(running, texts, keep_alive="10m")
    await embed_legacy(running, "")
    assert received(running) == before


@pytest.mark.rule(99)
@pytest.mark.trap(15)
async def test_dimensions_truncate_the_vector(running: Fleet) -> None:
    whole = (await embed(running))["embeddings"][0]
    cut = (await embed(running, dimensions=5))["embeddings"][0]
    assert cosine(cut, whole[:5]) == pytest.approx(1.0)


@pytest.mark.rule(101)
@pytest.mark.trap(15)
async def test_an_input_that_is_too_long_is_truncated_or_refused(running: Fleet) -> None:
    assert (await embed(running, LONG))["prompt_eval_count"] == 64
    assert (await embed(running, LONG, truncate=True))["prompt_eval_count"] == 64
    assert await embed(running, ["short", LONG], 400, truncate=False) == TOO_LONG, (
        "one input that is too long fails the batch"
    )
    assert await embed(running, "x" * 100_000, 400, truncate=False) == TOO_LONG
    assert await embed_legacy(running, LONG, 500) == TOO_LONG


@pytest.mark.rule(101, 102, 138)
async def test_num_ctx_limits_the_tokens_of_an_input(running: Fleet) -> None:
    one = await embed(running, " one")
    for text in (" one two three", LONG):
        cut = await embed(running, text, options={"num_ctx": 3})
        assert (cut["embeddings"], cut["prompt_eval_count"]) == (one["embeddings"], 3)
    for none in (2, 1, 0):
        refused = await embed(running, " one two", 400, options={"num_ctx": none})
        assert refused == {"error": "input after truncation exceeds maximum context length"}
    assert await embed(running, LONG, 400, truncate=False, options={"num_ctx": 20}) == TOO_LONG
    fits = await embed(running, " one two three four five six", truncate=False, options={"num_ctx": 20})
    assert len(fits["embeddings"]) == 1
    assert len((await embed(running, LONG, options={"num_ctx": 100_000}))["embeddings"]) == 1


@pytest.mark.rule(138)
async def test_num_ctx_of_a_route_applies(tmp_path: Path) -> None:
    route = {"small": {"serve": "all-minilm", "options": {"num_ctx": 3}}}
    async with fleet(tmp_path, {"a": MINILM}, table=routing_table(models=route)) as running:
        assert (await embed(running, "one two three", model="small"))["prompt_eval_count"] == 3


@pytest.mark.rule(166)
async def test_the_first_of_several_errors_is_the_one_ollama_reports(running: Fleet) -> None:
    """Order: bad JSON, bad input, unknown model, bad option."""
    bad = {"num_ctx": "x"}
    assert "cannot unmarshal" in (await embed(running, 5, 400, model="nope", truncate="x", options=bad))["error"]
    assert await embed(running, 5, 400, model="nope", options=bad) == {"error": "invalid input type"}
    assert "not found" in (await embed(running, "x", 404, model="nope", options=bad))["error"]
    assert (await embed(running, "", 500, options=bad))["error"] == 'option "num_ctx" must be of type integer'


@pytest.mark.rule(102, 159)
async def test_a_chat_model_does_not_support_embeddings(running: Fleet) -> None:
    refused = {"error": "this model does not support embeddings"}
    assert await embed(running, "x", 501, model="chat") == refused
    assert await embed_legacy(running, "x", 500, model="chat") == refused
    assert (await embed(running, "", model="chat"))["embeddings"] == []


@pytest.mark.parametrize(
    "fault",
    [faults.Dead(), faults.Draining(), faults.Status(status=500), faults.Status(status=503), faults.Cut(reset=True)],
    ids=repr,
)
async def test_a_request_that_fails_is_retried_on_another_worker(tmp_path: Path, fault: faults.Fault) -> None:
    async with fleet(tmp_path, {"a": MINILM, "b": MINILM}) as running:
        expected = (await embed(running, ["a", "b"]))["embeddings"]
        running["a"].set_faults([fault])
        for _ in range(4):
            assert (await embed(running, ["a", "b"]))["embeddings"] == expected
        assert running["b"].requests["/v1/embeddings"] >= 4


async def test_concurrent_requests_receive_their_own_vectors(running: Fleet) -> None:
    texts = [f"text {index}" for index in range(32)]
    found = await asyncio.gather(*(embed(running, text) for text in texts))
    whole = await embed(running, texts)
    assert [one["embeddings"][0] for one in found] == whole["embeddings"]


async def test_fields_that_clients_send_in_odd_forms_are_accepted(running: Fleet) -> None:
    """Null options (LangChain), keys in other case, `keep_alive` in fractional seconds."""
    nulls = dict.fromkeys(("mirostat", "num_ctx", "num_gpu", "temperature", "stop", "tfs_z", "top_k", "top_p"))
    assert len((await embed(running, ["a"], options=nulls, keep_alive=60.5, truncate=None))["embeddings"]) == 1
    response = await running.http.post("/api/embed", content=b'{"MODEL": "ALL-MiniLM:latest", "Input": "why"}')
    assert answered(response, 200)["model"] == "ALL-MiniLM:latest"
    assert "time: missing unit" in (await embed(running, "a", 400, keep_alive="5"))["error"]


async def test_a_batch_of_thousands_is_embedded_in_order(running: Fleet) -> None:
    """Exceeds every read size and the limit for work on the event loop, in both directions."""
    texts = [f"{index} " + "word " * 12 for index in range(4000)]
    found = await embed(running, texts)
    assert len(found["embeddings"]) == 4000
    assert found["embeddings"][3999] == (await embed(running, texts[3999]))["embeddings"][0]


async def test_the_request_log_has_the_prompt_tokens(running: Fleet) -> None:
    body = {"model": "all-minilm", "input": " one"}
    await running.http.post("/api/embed", json=body, headers={"x-request-id": "tokens-1"})
    record = await running.record("tokens-1")
    assert (record["operation"], record["status"], record["prompt_tokens"]) == ("embed", 200, 3)
