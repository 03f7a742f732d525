"""Reranking and scoring with an embedding model."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.vllm.server_pair import ServerPair

SKY = "the sky is blue"
DOCUMENTS = ["a cat", SKY, "the sky is grey"]
LONG = "hello " * 600
RERANK: dict[str, Any] = {"query": SKY, "documents": DOCUMENTS}
SCORE: dict[str, Any] = {"text_1": SKY, "text_2": DOCUMENTS}


def short(fields: dict[str, Any]) -> str:
    return str(fields).replace(" ", "")[:50]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_the_simulated_rerank_answers_as_the_real_one(embedding_pair: ServerPair, path: str) -> None:
    for answer in embedding_pair.compare_fields(path, **RERANK):
        results = answer.json()["results"]
        assert results[0]["index"] == 1
        assert results[0]["relevance_score"] == pytest.approx(1.0, abs=1e-2)
        scores = [result["relevance_score"] for result in results]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    "fields",
    [
        {"top_n": 2},
        {"top_n": 0},
        {"top_n": 9},
        {"documents": SKY},
        {"query": "", "documents": "a"},
        {"return_documents": False, "user": "me"},
        {"request_id": "mine"},
        {"documents": [LONG], "truncate_prompt_tokens": -1},
        {"documents": [LONG], "truncate_prompt_tokens": 5},
        {"documents": [LONG], "max_tokens_per_doc": 5},
    ],
    ids=short,
)
def test_a_rerank_with_options_answers_as_the_real_one(embedding_pair: ServerPair, fields: dict[str, Any]) -> None:
    real, simulated = embedding_pair.compare_fields("/rerank", **{**RERANK, **fields})
    assert len(real.json()["results"]) == len(simulated.json()["results"])


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_the_simulated_score_answers_as_the_real_one(embedding_pair: ServerPair, path: str) -> None:
    for answer in embedding_pair.compare_fields(path, **SCORE):
        assert [item["index"] for item in answer.json()["data"]] == [0, 1, 2]
        assert answer.json()["data"][1]["score"] == pytest.approx(1.0, abs=1e-2)


@pytest.mark.parametrize(
    "fields",
    [
        {"text_1": "a", "text_2": "b"},
        {"text_1": ["a", "b"], "text_2": ["c", "d"]},
        {"queries": "a", "documents": ["b", "c"]},
        {"queries": "a", "items": ["b", "c"]},
        {"data_1": "a", "data_2": "b"},
        {"text_1": "", "text_2": ""},
        {"text_1": "a", "text_2": "b", "user": "me", "made_up_field": 1},
    ],
    ids=short,
)
def test_pairs_have_the_real_names(embedding_pair: ServerPair, fields: dict[str, Any]) -> None:
    for answer in embedding_pair.compare_fields("/score", **fields):
        assert answer.status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"documents": []},
        {"documents": None},
        {"documents": 5},
        {"documents": ["a", 5]},
        {"documents": [{"content": [{"type": "text", "text": "x"}]}]},
        {"query": None},
        {"query": 5},
        {"query": LONG},
        {"documents": [LONG]},
        {"documents": [LONG], "truncate_prompt_tokens": 600},
        {"top_n": -1},
        {"top_n": "x"},
        {"max_tokens_per_doc": -5},
        {"max_tokens_per_doc": 5000},
        {"user": 5},
        {"model": "nope"},
    ],
    ids=short,
)
def test_an_invalid_rerank_gets_the_real_error(embedding_pair: ServerPair, fields: dict[str, Any]) -> None:
    real, _ = embedding_pair.compare("/rerank", {"model": embedding_pair.model, **RERANK, **fields})
    assert real.status_code >= 400


@pytest.mark.parametrize(
    "fields",
    [
        {"text_1": ["a", "b"], "text_2": ["c"]},
        {"text_1": [], "text_2": "x"},
        {"text_1": "x", "text_2": []},
        {"text_1": "x"},
        {},
        {"text_1": "x", "text_2": LONG},
        {"text_1": "x", "text_2": "y", "model": "nope"},
    ],
    ids=short,
)
def test_an_invalid_score_gets_the_real_error(embedding_pair: ServerPair, fields: dict[str, Any]) -> None:
    real, _ = embedding_pair.compare("/score", {"model": embedding_pair.model, **fields})
    assert real.status_code >= 400


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/score", "/v1/score"])
def test_scoring_routes_take_only_posts_of_json(embedding_pair: ServerPair, path: str) -> None:
    embedding_pair.compare(path, method="GET")
    embedding_pair.compare(path, b"{bad json")
    embedding_pair.compare(path, b"{}", headers={"content-type": "text/plain"})


@pytest.mark.parametrize("path", ["/rerank", "/score", "/v1/messages", "/v1/responses"])
def test_a_route_of_another_kind_of_model_is_missing(
    chat_pair: ServerPair, embedding_pair: ServerPair, path: str
) -> None:
    pair = embedding_pair if path.startswith("/v1/") else chat_pair
    real, _ = pair.compare(path, {})
    assert real.status_code == 404
