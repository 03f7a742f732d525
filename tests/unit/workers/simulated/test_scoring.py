"""Scores of pairs of texts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vllama_pool.workers.simulated.errors import ApiError
from vllama_pool.workers.simulated.options import Options
from vllama_pool.workers.simulated.scoring import rerank, score

OPTIONS = Options(model="m", max_model_len=64)
SKY = "the sky is blue"


def reranked(**fields: Any) -> dict[str, Any]:
    return rerank(json.dumps(fields).encode(), "application/json", OPTIONS)


def scored(**fields: Any) -> list[float]:
    answer = score(json.dumps(fields).encode(), "application/json", OPTIONS)
    return [item["score"] for item in answer["data"]]


def test_the_document_like_the_query_comes_first() -> None:
    results = reranked(query=SKY, documents=["two cats", "the sky is grey", SKY])["results"]
    assert [result["index"] for result in results] == [2, 1, 0]
    assert results[0]["relevance_score"] == pytest.approx(1.0)
    assert results[0]["document"] == {"text": SKY, "multi_modal": None}


@pytest.mark.parametrize(("top_n", "count"), [(0, 3), (2, 2), (9, 3)])
def test_a_rerank_returns_as_many_results_as_wanted(top_n: int, count: int) -> None:
    assert len(reranked(query=SKY, documents=["a", "b", "c"], top_n=top_n)["results"]) == count


def test_the_query_counts_once() -> None:
    one, two = (reranked(query=SKY, documents=["a"] * count)["usage"]["prompt_tokens"] for count in (1, 2))
    assert two - one == 3


@pytest.mark.parametrize(
    "names", [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")]
)
def test_pairs_have_several_names(names: tuple[str, str]) -> None:
    first, second = names
    assert scored(**{first: SKY, second: SKY}) == [pytest.approx(1.0)]
    assert len(scored(**{first: ["a", "b"], second: ["c", "d"]})) == 2
    assert scored(**{first: "a", second: ["a", "b"]}) == [scored(**{first: "a", second: part})[0] for part in "ab"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"query": SKY, "documents": []}, "At least one text_pair element must be given"),
        ({"query": SKY, "documents": "x " * 100}, "maximum context length is 64 tokens"),
        ({"query": SKY, "documents": [{"content": []}]}, "MultiModalParam is not supported"),
        ({"query": SKY, "documents": "a", "model": "nope"}, "does not exist"),
        ({"query": SKY, "documents": "a", "max_tokens_per_doc": -1}, "must be a non-negative integer"),
        ({"query": SKY, "documents": "a", "truncate_prompt_tokens": 65}, "greater than max_model_len"),
        ({"query": SKY}, "validation error"),
    ],
)
def test_an_invalid_rerank_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError, match=message):
        reranked(**fields)


def test_lists_of_pairs_have_the_same_length() -> None:
    with pytest.raises(ApiError, match="Input lengths must be either 1:1, 1:N or N:N"):
        scored(text_1=["a", "b"], text_2=["c"])


def test_documents_are_truncated_to_their_own_limit() -> None:
    long = SKY + " and many more words"
    shortened = reranked(query=SKY, documents=[long], max_tokens_per_doc=2)
    assert shortened["usage"]["prompt_tokens"] < reranked(query=SKY, documents=[long])["usage"]["prompt_tokens"]
