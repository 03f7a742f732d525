"""Embeddings, ranks and tokens of the forwarded routes through a live router to simulated workers."""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncIterator
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
TABLE = routing_table(models={"org/embed": {"serve": "all-minilm"}})
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    workers = {"a": MINILM, "b": MINILM, "chat": CHAT}
    async with fleet(tmp_path_factory.mktemp("state"), workers, table=TABLE) as made:
        yield made


def received(running: Fleet) -> int:
    return sum(sum(running[name].requests.values()) for name in running.workers)


async def post(running: Fleet, path: str, status: int = 200, **fields: Any) -> dict[str, Any]:
    response: httpx.Response = await running.http.post(path, json=fields)
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.json()
    return found


async def refusal(running: Fleet, path: str, **fields: Any) -> dict[str, Any]:
    """Return the error of a 400 that no worker has seen."""
    before = received(running)
    found: dict[str, Any] = (await post(running, path, 400, **fields))["error"]
    assert received(running) == before
    return found


@pytest.mark.rule(29, 45, 116)
@pytest.mark.parametrize("name", ["all-minilm", "all-minilm:latest", "ALL-MINILM", "org/embed"])
async def test_floats_and_base64_are_the_same_vectors_under_every_name(running: Fleet, name: str) -> None:
    floats = await post(running, "/v1/embeddings", model=name, input=["why", ""])
    packed = await post(running, "/v1/embeddings", model=name, input=["why", ""], encoding_format="base64")
    assert floats["model"] == packed["model"] == name
    assert floats["usage"]["prompt_tokens"] > 0
    for one, other in zip(floats["data"], packed["data"], strict=True):
        assert struct.unpack("<32f", base64.b64decode(other["embedding"])) == pytest.approx(one["embedding"], rel=1e-6)


async def test_embeddings_of_a_chat_model_are_refused_without_a_worker(running: Fleet) -> None:
    error = await refusal(running, "/v1/embeddings", model="chat", input="why")
    assert error == {
        "message": '"chat" does not support embeddings: use an embedding model',
        "type": "invalid_request_error",
        "param": "model",
        "code": None,
    }


@pytest.mark.rule(116)
async def test_an_invalid_input_reaches_no_worker(running: Fleet) -> None:
    assert (await refusal(running, "/v1/embeddings", model="all-minilm", input=[]))["message"] == "invalid input"


@pytest.mark.rule(145)
async def test_a_text_that_is_too_long_is_refused_with_openais_code(running: Fleet) -> None:
    error = (await post(running, "/v1/embeddings", 400, model="all-minilm", input=" one" * 100))["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input")
    assert "maximum context length" in error["message"]
    short = await post(running, "/v1/embeddings", model="all-minilm", input=" one" * 100, truncate_prompt_tokens=-1)
    assert short["usage"]["prompt_tokens"] == 64


async def test_a_failing_worker_is_replaced_and_the_tokens_are_logged(running: Fleet) -> None:
    running["a"].set_faults([faults.Status(status=500, count=1)])
    try:
        for attempt in range(4):
            answer = await running.http.post(
                "/v1/embeddings",
                json={"model": "all-minilm", "input": "why"},
                headers={"x-request-id": f"embed-{attempt}"},
            )
            assert answer.status_code == 200
            record = await running.record(f"embed-{attempt}")
            assert record["prompt_tokens"] == answer.json()["usage"]["prompt_tokens"]
            assert record["operation"] == "v1 embeddings"
    finally:
        running["a"].set_faults([])


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score"])
async def test_ranks_of_a_chat_model_are_refused_without_a_worker(running: Fleet, path: str) -> None:
    fields = {"text_1": "a", "text_2": "b"} if "score" in path else {"query": "a", "documents": ["b"]}
    error = await refusal(running, path, model="chat", **fields)
    assert (error["type"], error["param"]) == ("invalid_request_error", "model")
    assert error["message"].endswith("or an embedding model")


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
async def test_documents_in_all_shapes_are_ranked_by_an_embedding_model(running: Fleet, path: str) -> None:
    documents = ["cats sleep", {"text": "the blue sky"}]
    found = await post(running, path, model="org/embed", query="the blue sky", documents=documents)
    assert [each["index"] for each in found["results"]] == [1, 0]
    assert found["model"] == "org/embed"
    one = await post(running, path, model="org/embed", query={"text": "the blue sky"}, documents=documents, top_n=1)
    assert [each["document"]["text"] for each in one["results"]] == ["the blue sky"]


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize("pair", [("text_1", "text_2"), ("queries", "documents"), ("data_1", "data_2")])
async def test_pairs_in_all_spellings_are_scored(running: Fleet, path: str, pair: tuple[str, str]) -> None:
    sides = dict(zip(pair, ("the blue sky", ["cats sleep", "the blue sky"]), strict=True))
    found = await post(running, path, model="all-minilm:latest", **sides)
    assert found["data"][1]["score"] > found["data"][0]["score"]
    assert (found["model"], found["usage"]["prompt_tokens"] > 0) == ("all-minilm:latest", True)


@pytest.mark.rule(145)
async def test_a_document_that_is_too_long_is_refused_with_openais_code(running: Fleet) -> None:
    fields = {"model": "all-minilm", "query": "a", "documents": [" one" * 100]}
    error = (await post(running, "/v1/rerank", 400, **fields))["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "documents")


@pytest.mark.parametrize("name", ["chat", "CHAT:latest", "org/embed"])
async def test_a_text_becomes_tokens_and_a_text_again_for_any_kind_of_model(running: Fleet, name: str) -> None:
    found = await post(running, "/tokenize", model=name, prompt="one two", return_token_strs=True)
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert (await post(running, "/detokenize", model=name, tokens=found["tokens"]))["prompt"].count("one two") == 1


async def test_a_chat_is_tokenized_as_it_is_answered(running: Fleet) -> None:
    messages = [{"role": "user", "content": "one two"}]
    found = await post(running, "/tokenize", model="chat", messages=messages)
    answer = await post(running, "/v1/chat/completions", model="chat", messages=messages, max_tokens=1)
    assert found["count"] == answer["usage"]["prompt_tokens"]


async def test_an_invalid_request_for_tokens_reaches_no_worker(running: Fleet) -> None:
    assert (await refusal(running, "/tokenize", model="chat"))["param"] == "prompt"
    assert (await refusal(running, "/detokenize", model="chat", tokens=[-1]))["param"] == "tokens[0]"
    assert (await refusal(running, "/tokenize", model="chat", prompt="a", chat_template="x"))[
        "param"
    ] == "chat_template"
