"""Embeddings of `all-minilm` through a live router to a real vLLM with all-MiniLM-L6-v2."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import ollama
import pytest

from tests.support.fleet.attached import OneSystem
from tests.support.vllm.servers import ANSWER_TIMEOUT, VllmServer

SKY = "Why is the sky blue?"
PUBLISHED = [
    *(0.010071029, -0.0017594862, 0.05007221, 0.04692972, 0.054916814),
    *(0.008599704, 0.105441414, -0.025878139, 0.12958129, 0.031952348),
]
"""First components of this model's vector for SKY in Ollama's API documentation."""
DIMENSIONS, CONTEXT = 384, 256
LONG = "The sky is blue since air scatters blue light more than red light. " * 40
TOO_LONG = "the input length exceeds the context length"
NO_ROOM = "input after truncation exceeds maximum context length"
Vector = list[float]
Post = Callable[..., httpx.Response]
Embed = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneSystem]:
    with OneSystem(lambda: tmp_path_factory.mktemp("system")) as one_system:
        yield one_system


@pytest.fixture
def client(systems: OneSystem, all_minilm_vllm: VllmServer) -> Iterator[ollama.Client]:
    """The official Python client."""
    ollama_client = ollama.Client(systems.url(all_minilm_vllm), trust_env=False, timeout=ANSWER_TIMEOUT)
    yield ollama_client
    ollama_client._client.close()


@pytest.fixture
def post(systems: OneSystem, all_minilm_vllm: VllmServer) -> Post:
    url = systems.url(all_minilm_vllm)

    def send(path: str, **fields: Any) -> httpx.Response:
        return httpx.post(url + path, json={"model": "all-minilm", **fields}, trust_env=False, timeout=ANSWER_TIMEOUT)

    return send


@pytest.fixture
def embed(post: Post) -> Embed:
    def post_and_decode(text: Any, **fields: Any) -> dict[str, Any]:
        response = post("/api/embed", input=text, **fields)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    return post_and_decode


def cosine(one: Vector, other: Vector) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def same_direction(one: Vector, other: Vector) -> bool:
    return cosine(one, other) > 0.9999


@pytest.mark.rule(25)
def test_the_vector_equals_the_one_in_ollamas_documentation(embed: Embed) -> None:
    answer = embed(SKY)
    (vector,) = answer["embeddings"]
    assert len(vector) == DIMENSIONS
    assert cosine(vector[: len(PUBLISHED)], PUBLISHED) > 0.999
    assert vector[: len(PUBLISHED)] == pytest.approx(PUBLISHED, abs=2e-3)
    assert answer["prompt_eval_count"] == 8
    assert answer["model"] == "all-minilm"
    assert min(answer["total_duration"], answer["load_duration"]) >= 1


@pytest.mark.rule(99)
def test_truncated_vectors_have_length_one(embed: Embed) -> None:
    (whole,) = embed(SKY)["embeddings"]
    (cut,) = embed(SKY, dimensions=64)["embeddings"]
    assert len(cut) == 64
    assert math.hypot(*whole) == pytest.approx(1.0, abs=1e-6)
    assert math.hypot(*cut) == pytest.approx(1.0, abs=1e-6)
    assert same_direction(cut, whole[:64])
    assert same_direction(embed(SKY, dimensions=DIMENSIONS + 1)["embeddings"][0], whole)


def test_a_batch_is_embedded_in_order(embed: Embed) -> None:
    texts = [f"{word} is a word" for word in ["sky", "grass", "sea", "fire", "stone"]] * 20
    answer = embed(texts)
    alone = {text: embed(text) for text in set(texts)}
    assert len(answer["embeddings"]) == len(texts)
    assert all(
        same_direction(vector, alone[text]["embeddings"][0])
        for text, vector in zip(texts, answer["embeddings"], strict=True)
    )
    assert answer["prompt_eval_count"] == sum(alone[text]["prompt_eval_count"] for text in texts)


@pytest.mark.rule(101, 102)
def test_num_ctx_truncates_an_embedded_input(embed: Embed, post: Post) -> None:
    (why,) = embed("why")["embeddings"]
    for text in (SKY, LONG.replace("The sky", "Why", 1)):
        cut = embed(text, options={"num_ctx": 3})  # one word, and the two tokens that BERT adds to every text
        assert cut["prompt_eval_count"] == 3
        assert same_direction(cut["embeddings"][0], why)
    for too_few in (2, 1, 0):
        refused = post("/api/embed", input=SKY, options={"num_ctx": too_few})
        assert (refused.status_code, refused.json()) == (400, {"error": NO_ROOM})
    assert embed(SKY, options={"num_ctx": 8}, truncate=False)["prompt_eval_count"] == 8
    refused = post("/api/embed", input=SKY, options={"num_ctx": 7}, truncate=False)
    assert (refused.status_code, refused.json()) == (400, {"error": TOO_LONG})


@pytest.mark.rule(101)
def test_inputs_beyond_the_models_context_are_truncated_or_refused(embed: Embed, post: Post) -> None:
    assert embed(LONG)["prompt_eval_count"] == CONTEXT
    assert embed(LONG, options={"num_ctx": 100_000})["prompt_eval_count"] == CONTEXT
    for text in (LONG, LONG * 100, ["short", LONG]):
        refused = post("/api/embed", input=text, truncate=False)
        assert (refused.status_code, refused.json()) == (400, {"error": TOO_LONG})
    refused = post("/api/embeddings", prompt=LONG)
    assert (refused.status_code, refused.json()) == (500, {"error": TOO_LONG})


@pytest.mark.rule(26)
def test_the_older_endpoint_returns_the_vector_before_normalisation(embed: Embed, post: Post) -> None:
    answer = post("/api/embeddings", prompt=SKY).json()
    assert set(answer) == {"embedding"}
    assert same_direction(answer["embedding"], embed(SKY)["embeddings"][0])
    assert math.hypot(*answer["embedding"]) > 1.5, "not normalised"


@pytest.mark.rule(100)
def test_an_empty_text_in_a_list_is_embedded(embed: Embed) -> None:
    answer = embed([""])
    assert (len(answer["embeddings"][0]), answer["prompt_eval_count"]) == (DIMENSIONS, 2)
    assert embed("") == embed([]) == {"model": "all-minilm", "embeddings": []}


def test_texts_in_any_script_are_accepted(embed: Embed) -> None:
    texts = ["\U0001f999 \u00e9\u00df \u65e5\u672c\u8a9e", "\x00\x01 \t\r\n", '"quoted" \\ <&>', "a" * 5000, "\ufffd"]
    assert len(embed(texts)["embeddings"]) == len(texts)


def test_similar_texts_have_similar_vectors(embed: Embed) -> None:
    question, near, far = embed([SKY, "What makes the sky look blue?", "How do I bake bread?"])["embeddings"]
    assert cosine(question, near) > 0.8 > 0.3 > cosine(question, far)


def test_the_official_client_embeds_and_shows_the_model(client: ollama.Client) -> None:
    answer = client.embed("all-minilm", [SKY, "why"])
    assert [len(vector) for vector in answer.embeddings] == [DIMENSIONS, DIMENSIONS]
    assert answer.prompt_eval_count == 11
    assert len(client.embeddings("all-minilm", SKY).embedding) == DIMENSIONS
    assert client.show("all-minilm").capabilities == ["embedding"]
    with pytest.raises(ollama.ResponseError, match="does not support chat"):
        client.chat("all-minilm", [{"role": "user", "content": "hi"}])
    with pytest.raises(ollama.ResponseError, match='model "nope" not found, try pulling it first'):
        client.embed("nope", "x")
