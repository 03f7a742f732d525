from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.protocol import CLOCK, MODEL, TIMING
from vllama_pool.config.routing.defaults import NO_DEFAULTS
from vllama_pool.router.errors import BadRequest, Refused
from vllama_pool.router.protocol.openai.pooling import request as pooling
from vllama_pool.router.protocol.openai.pooling import scoring
from vllama_pool.router.protocol.vllm.errors import CONTEXT_EXCEEDED, WRONG_TASK
from vllama_pool.workers.registry.record import ModelInfo

RANKER = ModelInfo(name="org/ranker", capabilities=())
PNG = "data:image/png;base64,iVBORw0KGgoAAAAN"
SEEN = {"content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": PNG}}]}
SHARED: dict[str, Any] = {
    "user": "anna",
    "truncate_prompt_tokens": 10,
    "truncation_side": "right",
    "padding": "max_length",
    "use_activation": False,
    "max_tokens_per_query": 5,
    "max_tokens_per_doc": 0,
    "instruction": "rank",
    "chat_template_kwargs": {"style": "x"},
}


def rerank_body(**fields: Any) -> bytes:
    return json.dumps({"model": "r", "query": "q", "documents": ["a", "b"], **fields}).encode()


def score_body(**fields: Any) -> bytes:
    return json.dumps({"model": "r", **fields}).encode()


def reranked(**fields: Any) -> dict[str, Any]:
    request = scoring.decode_rerank(rerank_body(**fields))
    scoring.check_rerank(request, RANKER)
    step = scoring.prepare_rerank("/v1/rerank", request, RANKER, NO_DEFAULTS)
    assert (step.path, step.whole) == ("/v1/rerank", True)
    found: dict[str, Any] = json.loads(step.body)
    return found


def scored(**fields: Any) -> dict[str, Any]:
    request = scoring.decode_score(score_body(**fields))
    scoring.check_score(request, RANKER)
    step = scoring.prepare_score("/score", request, RANKER, NO_DEFAULTS)
    assert (step.path, step.whole) == ("/score", True)
    found: dict[str, Any] = json.loads(step.body)
    return found


def refused(**fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        scoring.decode_rerank(rerank_body(**fields))
    assert caught.value.status == 400
    return caught.value


def refused_score(**fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        scoring.decode_score(score_body(**fields))
    assert caught.value.status == 400
    return caught.value


def test_a_rerank_request_is_forwarded_with_the_served_name() -> None:
    expected = {"model": "org/ranker", "query": "q", "documents": ["a", "b"]}
    assert reranked() == expected
    assert reranked(top_n=1, **SHARED) == {**expected, "top_n": 1, **SHARED}
    assert reranked(return_documents=False, request_id="x", rank_fields=["a"]) == expected


def test_texts_in_objects_are_sent_as_texts_and_parts_as_parts() -> None:
    sent = reranked(query={"text": "q"}, documents=[{"text": ""}, SEEN, "b", {"text": "c", "title": "dropped"}])
    assert (sent["query"], sent["documents"]) == ("q", ["", SEEN, "b", "c"])
    assert reranked(query=SEEN, documents="one")["query"] == SEEN


@pytest.mark.parametrize(
    ("first", "second"),
    [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")],
)
def test_all_spellings_of_a_pair_are_sent_as_the_one_that_all_releases_know(first: str, second: str) -> None:
    for left, right in (("q", "a"), ("q", ["a", "b"]), (["q", "r"], ["a", "b"]), ("", "")):
        assert scored(**{first: left, second: right}) == {"model": "org/ranker", "text_1": left, "text_2": right}
    assert scored(**{first: {"text": "q"}, second: [SEEN]})["text_2"] == [SEEN]


def test_further_fields_of_a_score_are_forwarded() -> None:
    assert scored(text_1="q", text_2="a", **SHARED).items() >= SHARED.items()


@pytest.mark.parametrize(
    ("fields", "param", "text"),
    [
        ({"model": ""}, "model", "model is required"),
        ({"query": None}, "query", "Missing required parameter: 'query'."),
        ({"documents": None}, "documents", "Missing required parameter: 'documents'."),
        ({"documents": []}, "documents", "Invalid 'documents': empty array."),
        ({"documents": ["a"] * 2049}, "documents", "Invalid 'documents': array too long."),
        ({"documents": [{}]}, "documents[0].text", "Missing required parameter: 'documents[0].text'."),
        ({"documents": ["a", {"content": []}]}, "documents[1].text", "Missing required parameter"),
        ({"documents": [5]}, "documents[0]", "Invalid type for 'documents[0]'"),
        ({"query": ["q"]}, "query", "Invalid type for 'query'"),
        ({"top_n": -1}, "top_n", "Invalid 'top_n': integer below minimum value."),
        ({"top_n": 2**31}, "top_n", "Invalid 'top_n': integer above maximum value. Expected a value <= 2147483647,"),
        ({"top_n": "3"}, "top_n", "Invalid type for 'top_n'"),
        ({"max_tokens_per_doc": -1}, "max_tokens_per_doc", "Invalid 'max_tokens_per_doc'"),
        ({"max_tokens_per_query": -1}, "max_tokens_per_query", "Invalid 'max_tokens_per_query'"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens", "Invalid 'truncate_prompt_tokens'"),
        ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs.chat_template", "'chat_template_"),
    ],
)
def test_invalid_rerank_requests_are_refused_by_field(fields: dict[str, Any], param: str, text: str) -> None:
    error = refused(**fields)
    assert error.param == param
    assert error.text.startswith(text)


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ({"type": "image_url", "image_url": {"url": "http://169.254.169.254/x"}}, "image URLs are not currently"),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "image URLs are not currently"),
        ({"type": "video_url", "video_url": {"url": "https://x/y"}}, "video URLs are not currently supported"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,!"}}, "illegal base64 data"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "Invalid value: 'input_audio'."),
        ({"type": "image_embeds", "image_embeds": "AAAA"}, "Invalid value: 'image_embeds'."),
        ({"type": "text"}, "Missing required parameter: 'query.content[0].text'."),
    ],
)
def test_media_by_url_and_other_parts_are_refused(part: dict[str, Any], text: str) -> None:
    for error in (
        refused(query={"content": [part]}),
        refused(documents=[{"content": [part]}]),
        refused_score(text_1="q", text_2={"content": [part]}),
    ):
        assert error.text.replace("documents[0]", "query").replace("text_2", "query").startswith(text)


@pytest.mark.parametrize(
    ("fields", "param", "text"),
    [
        ({}, "text_1", "Missing required parameter: 'text_1'."),
        ({"text_1": "q"}, "text_2", "Missing required parameter: 'text_2'."),
        ({"text_2": "q"}, "text_1", "Missing required parameter: 'text_1'."),
        ({"items": ["q"]}, "queries", "Missing required parameter: 'queries'."),
        ({"data_1": "q"}, "data_2", "Missing required parameter: 'data_2'."),
        ({"text_1": "q", "data_2": "a"}, "data_2", "Too many texts: send one of these pairs"),
        ({"queries": "q", "documents": "a", "items": "b"}, "items", "Too many texts"),
        ({"text_1": ["q", "r"], "text_2": ["a"]}, "text_2", "Input lengths must be either 1:1, 1:N or N:N"),
        ({"text_1": ["q", "r"], "text_2": "a"}, "text_2", "Input lengths must be"),
        ({"text_1": [], "text_2": "a"}, "text_1", "Invalid 'text_1': empty array."),
        ({"text_1": "q", "text_2": ["a"] * 2049}, "text_2", "Invalid 'text_2': array too long."),
        ({"text_1": 5, "text_2": "a"}, "text_1", "Invalid type for 'text_1'"),
    ],
)
def test_invalid_pairs_are_refused_by_field(fields: dict[str, Any], param: str, text: str) -> None:
    error = refused_score(**fields)
    assert error.param == param
    assert error.text.startswith(text)


@pytest.mark.parametrize("name", scoring.REFUSED)
def test_fields_that_reach_into_the_server_are_refused(name: str) -> None:
    for error in (refused(**{name: 1}), refused_score(text_1="q", text_2="a", **{name: 1})):
        assert (error.param, error.code) == (name, "unsupported_parameter")


def test_a_chat_model_is_refused_with_the_kind_that_is_needed() -> None:
    with pytest.raises(BadRequest, match=r'"r" does not support reranking: use a reranker \(a cross-encoder\) or an'):
        scoring.check_rerank(scoring.decode_rerank(rerank_body()), MODEL)
    with pytest.raises(BadRequest, match='"r" does not support scores: use a cross-encoder or an embedding model'):
        scoring.check_score(scoring.decode_score(score_body(text_1="q", text_2="a")), MODEL)


def test_a_worker_without_the_route_is_explained_too() -> None:
    missing, too_long = Refused(WRONG_TASK, status=404), Refused(CONTEXT_EXCEEDED, status=400)
    rerank, score = scoring.decode_rerank(rerank_body()), scoring.decode_score(score_body(data_1="q", data_2="a"))
    with pytest.raises(Refused, match="does not support reranking"):
        scoring.adapt_rerank(rerank, RANKER, NO_DEFAULTS, missing)
    with pytest.raises(Refused, match="does not support scores"):
        scoring.adapt_score(score, RANKER, NO_DEFAULTS, missing)
    with pytest.raises(Refused) as ranked:
        scoring.adapt_rerank(rerank, RANKER, NO_DEFAULTS, too_long)
    assert (ranked.value.param, ranked.value.code) == ("documents", "context_length_exceeded")
    with pytest.raises(Refused) as compared:
        scoring.adapt_score(score, RANKER, NO_DEFAULTS, too_long)
    assert (compared.value.param, compared.value.code) == ("data_2", "context_length_exceeded")


def test_the_answer_names_the_model_as_the_client_did() -> None:
    answer = (
        b'{"id":"rerank-1","model":"org/ranker","usage":{"prompt_tokens":9,"total_tokens":9},"results":[{"index":0,'
        b'"document":{"text":"a \\"model\\":\\"org/ranker\\"","multi_modal":null},"relevance_score":0.5}]}'
    )
    translator = pooling.translator(scoring.decode_rerank(rerank_body()), TIMING, CLOCK)
    translator.feed(answer)
    assert translator.finish() == answer.replace(b'"model":"org/ranker"', b'"model":"r"', 1)
    assert translator.usage.prompt_tokens == 9
