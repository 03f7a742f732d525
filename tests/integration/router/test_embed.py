"""Embeddings through a live router to simulated workers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.live import Fleet, fleet
from tests.support.until import auntil
from vllama_pool.config.routing.table import ModelRoute, RoutingTable, ServeTarget
from vllama_pool.workers.simulated import script
from vllama_pool.workers.simulated.options import Options

MINILM = Options(model="all-minilm", embedding=True, max_model_len=64, dimensions=32)
CHAT = Options(model="chat")
LONG = " one two three" * 50
"""Each word is a token, with the blank before it."""
TOO_LONG = {"error": "the input length exceeds the context length"}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, {"a": MINILM, "b": MINILM, "chat": CHAT}) as made:
        yield made


async def embed(running: Fleet, given: Any = "why", status: int = 200, **more: Any) -> dict[str, Any]:
    response = await running.http.post("/api/embed", json={"model": "all-minilm", "input": given, **more})
    return answered(response, status)


async def older(running: Fleet, prompt: str, status: int = 200, **more: Any) -> dict[str, Any]:
    response = await running.http.post("/api/embeddings", json={"model": "all-minilm", "prompt": prompt, **more})
    return answered(response, status)


def answered(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    found: dict[str, Any] = response.json()
    return found


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


@pytest.mark.rule(25)
async def test_a_text_is_embedded_with_every_metric(running: Fleet) -> None:
    found = await embed(running)
    assert found["model"] == "all-minilm"
    assert [len(vector) for vector in found["embeddings"]] == [32]
    assert min(found["total_duration"], found["load_duration"], found["prompt_eval_count"]) >= 1
    assert set(found) == {"model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"}


@pytest.mark.rule(26)
@pytest.mark.trap(15)
async def test_the_older_endpoint_gives_the_vector_alone_and_not_normalised(running: Fleet) -> None:
    found = await older(running, "why")
    assert set(found) == {"embedding"}
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
@pytest.mark.parametrize("given", ["", None, []], ids=repr)
async def test_loads_reach_no_worker(running: Fleet, given: Any) -> None:
    assert await embed(running, given, keep_alive="10m") == {"model": "all-minilm", "embeddings": []}
    assert await older(running, "") == {"embedding": []}
    assert not running["a"].requests["/v1/embeddings"] + running["b"].requests["/v1/embeddings"]


@pytest.mark.rule(99)
@pytest.mark.trap(15)
async def test_dimensions_cut_and_normalise_again(running: Fleet) -> None:
    whole = (await embed(running))["embeddings"][0]
    cut = (await embed(running, dimensions=5))["embeddings"][0]
    assert len(cut) == 5
    assert math.hypot(*cut) == pytest.approx(1.0)
    assert cosine(cut, whole[:5]) == pytest.approx(1.0)
    assert (await embed(running, dimensions=500))["embeddings"][0] == whole


@pytest.mark.rule(101)
@pytest.mark.trap(15)
async def test_too_long_a_text_is_cut_or_refused_as_asked(running: Fleet) -> None:
    assert (await embed(running, LONG))["prompt_eval_count"] == 64
    assert (await embed(running, LONG, truncate=True))["prompt_eval_count"] == 64
    assert await embed(running, ["short", LONG], 400, truncate=False) == TOO_LONG, "one fails all"
    assert await embed(running, "x" * 100_000, 400, truncate=False) == TOO_LONG
    assert await older(running, LONG, 500) == TOO_LONG


@pytest.mark.rule(101, 102, 138)
async def test_num_ctx_bounds_what_is_taken_of_a_text(running: Fleet) -> None:
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
async def test_a_routes_num_ctx_counts_as_well(tmp_path: Path) -> None:
    route = ModelRoute("small", (ServeTarget("all-minilm"),), options={"num_ctx": 3})
    async with fleet(tmp_path, {"a": MINILM}, table=RoutingTable(models=(route,))) as running:
        assert (await embed(running, "one two three", model="small"))["prompt_eval_count"] == 3


@pytest.mark.rule(147, 148)
@pytest.mark.parametrize("path", ["/api/embed", "/api/embeddings"])
@pytest.mark.parametrize(
    ("model", "status", "text"),
    [
        ("No/Such:model", 404, 'model "No/Such:model" not found, try pulling it first'),
        ("a b", 400, "invalid model name"),
        ("x:cloud", 403, "ollama cloud is disabled: remote model is unavailable"),
    ],
)
async def test_names_that_nobody_serves(running: Fleet, path: str, model: str, status: int, text: str) -> None:
    response = await running.http.post(path, json={"model": model, "input": "x", "prompt": "x"})
    assert answered(response, status) == {"error": text}


@pytest.mark.rule(149)
async def test_local_and_cloud_at_once_is_refused(running: Fleet) -> None:
    text = 'use either :local or :cloud, not both: "x:local:cloud"'
    for path in ("/api/embed", "/api/embeddings"):
        response = await running.http.post(path, json={"model": "x:local:cloud", "input": "x", "prompt": "x"})
        assert answered(response, 400) == {"error": text}


@pytest.mark.rule(166)
async def test_the_order_of_refusals(running: Fleet) -> None:
    """Bad JSON, then a bad input, then a missing model, then a bad option."""
    bad = {"num_ctx": "x"}
    assert "cannot unmarshal" in (await embed(running, 5, 400, model="nope", truncate="x", options=bad))["error"]
    assert await embed(running, 5, 400, model="nope", options=bad) == {"error": "invalid input type"}
    assert "not found" in (await embed(running, "x", 404, model="nope", options=bad))["error"]
    assert (await embed(running, "", 500, options=bad))["error"] == 'option "num_ctx" must be of type integer'


@pytest.mark.rule(102, 159)
async def test_a_model_that_chats_is_asked_and_cannot_embed(running: Fleet) -> None:
    refused = {"error": "this model does not support embeddings"}
    assert await embed(running, "x", 501, model="chat") == refused
    assert await older(running, "x", 500, model="chat") == refused
    assert (await embed(running, "", model="chat"))["embeddings"] == []


@pytest.mark.parametrize(
    "fault",
    [script.Dead(), script.Draining(), script.Status(status=500), script.Status(status=503), script.Cut(reset=True)],
    ids=repr,
)
async def test_a_worker_that_fails_costs_the_client_nothing(running: Fleet, fault: script.Fault) -> None:
    expected = (await embed(running, ["a", "b"]))["embeddings"]
    running["a"].set_faults([fault])
    for _ in range(4):
        assert (await embed(running, ["a", "b"]))["embeddings"] == expected
    assert running["b"].requests["/v1/embeddings"] >= 4


async def test_many_at_once_get_each_their_own(running: Fleet) -> None:
    texts = [f"text {index}" for index in range(32)]
    found = await asyncio.gather(*(embed(running, text) for text in texts))
    whole = await embed(running, texts)
    assert [one["embeddings"][0] for one in found] == whole["embeddings"]


async def test_what_clients_send_beside_is_taken(running: Fleet) -> None:
    """LangChain's nulls, an `input` in other letters, a `keep_alive` in seconds."""
    nulls = dict.fromkeys(("mirostat", "num_ctx", "num_gpu", "temperature", "stop", "tfs_z", "top_k", "top_p"))
    assert len((await embed(running, ["a"], options=nulls, keep_alive=60.5, truncate=None))["embeddings"]) == 1
    response = await running.http.post("/api/embed", content=b'{"MODEL": "ALL-MiniLM:latest", "Input": "why"}')
    assert answered(response, 200)["model"] == "ALL-MiniLM:latest"
    assert "time: missing unit" in (await embed(running, "a", 400, keep_alive="5"))["error"]


async def test_a_batch_of_thousands_is_embedded_whole(running: Fleet) -> None:
    """Larger than what is read or worked out in one go on either way."""
    texts = [f"{index} " + "word " * 12 for index in range(4000)]
    found = await embed(running, texts)
    assert len(found["embeddings"]) == 4000
    assert found["embeddings"][3999] == (await embed(running, texts[3999]))["embeddings"][0]


async def test_requests_are_logged_with_their_tokens(running: Fleet) -> None:
    await embed(running, " one")
    records = await auntil(running.records, 5, "the log line")
    assert [(record["operation"], record["status"], record["prompt_tokens"]) for record in records] == [
        ("embed", 200, 3)
    ]
