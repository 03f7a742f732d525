"""Embeddings: inputs, truncation and normalisation."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.vllm.server_pair import CHAT, EMBEDDINGS, QUESTION, TOKENIZE, ServerPair

SKY = "why is the sky blue"


def squared_length(vector: list[float]) -> float:
    return sum(value * value for value in vector)


@pytest.mark.parametrize(
    "fields",
    [
        {"input": SKY},
        {"input": ["a", "b c"], "encoding_format": "base64"},
        {"input": [1, 2]},
        {"input": [[1, 2], [3]]},
        {"input": ""},
        {"input": "a " * 3000, "truncate_prompt_tokens": -1},
        {"input": ["a " * 3000, "b"], "truncate_prompt_tokens": 3},
        {"input": ["a " * 3000, "b"], "truncate_prompt_tokens": 512, "encoding_format": "base64"},
        {"input": "a", "stream": True, "made_up_field": 1},
        {"input": "a", "user": "me", "encoding_format": "float"},
    ],
    ids=[
        "text",
        "base64",
        "ids",
        "lists of ids",
        "empty",
        "truncated",
        "cut",
        "cut at the limit",
        "unknown fields",
        "user",
    ],
)
def test_the_simulated_embedding_answers_as_the_real_one(embedding_pair: ServerPair, fields: dict[str, Any]) -> None:
    for answer in embedding_pair.compare_fields(EMBEDDINGS, **fields):
        vector = answer.json()["data"][0]["embedding"]
        if isinstance(vector, list):
            assert squared_length(vector) == pytest.approx(1.0, abs=1e-3)


def test_truncated_texts_keep_the_special_tokens_at_both_ends(embedding_pair: ServerPair) -> None:
    for answer in embedding_pair.compare_fields(TOKENIZE, prompt=""):
        assert answer.json()["count"] == 2
    for limit in (1, 2, 3):
        answers = embedding_pair.compare_fields(EMBEDDINGS, input=["", SKY], truncate_prompt_tokens=limit)
        assert [answer.json()["usage"]["prompt_tokens"] for answer in answers] == [min(2, limit) + limit] * 2
    real, _ = embedding_pair.compare_fields(EMBEDDINGS, input=["why is", "why"], truncate_prompt_tokens=3)
    truncated, whole = (item["embedding"] for item in real.json()["data"])
    assert truncated == pytest.approx(whole, abs=1e-2)


def test_an_embedding_without_activation_is_not_normalised(embedding_pair: ServerPair) -> None:
    for answer in embedding_pair.compare_fields(EMBEDDINGS, input=SKY, use_activation=False):
        vector = answer.json()["data"][0]["embedding"]
        assert squared_length(vector) != pytest.approx(1.0, abs=1e-2)


@pytest.mark.parametrize(
    "fields",
    [
        {"input": []},
        {"input": None},
        {"input": 5},
        {},
        {"input": "x", "dimensions": 3},
        {"input": "x", "dimensions": 0},
        {"input": "x", "encoding_format": "x"},
        {"input": "x", "truncate_prompt_tokens": 0},
        {"input": "x", "truncate_prompt_tokens": -2},
        {"input": "x", "truncate_prompt_tokens": 513},
        {"input": ["x", 5]},
        {"input": "x", "user": 5},
    ],
    ids=lambda fields: str(fields).replace(" ", "")[:60],
)
def test_an_invalid_embedding_request_gets_the_real_error(embedding_pair: ServerPair, fields: dict[str, Any]) -> None:
    embedding_pair.compare(EMBEDDINGS, {"model": embedding_pair.model, **fields})


def test_an_unknown_embedding_model_gets_the_real_error(embedding_pair: ServerPair) -> None:
    embedding_pair.compare(EMBEDDINGS, {"model": "nope", "input": "x"})


def test_an_input_beyond_the_context_is_not_embedded(embedding_pair: ServerPair) -> None:
    for text in ("hi " * 200_000, "hi " * 600, ["hi", "hi " * 600], [5] * 600):
        real, _ = embedding_pair.compare_fields(EMBEDDINGS, input=text)
        assert real.status_code == 400


def test_an_embedding_server_has_no_chat_route(embedding_pair: ServerPair) -> None:
    real, _ = embedding_pair.compare(CHAT, {"model": embedding_pair.model, **QUESTION})
    assert (real.status_code, real.json()) == (404, {"detail": "Not Found"})
