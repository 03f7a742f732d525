"""Embeddings, ranks, scores and tokens of the forwarded routes on real vLLM: all-MiniLM-L6-v2, and a cross-encoder."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.fleet.attached import OneSystem
from tests.support.vllm.servers import ANSWER_TIMEOUT, Servers, Spec, VllmServer

QUERY = "What colour is the sky?"
DOCUMENTS = ["Cats sleep all day.", "The sky is blue.", "Bread is baked in an oven."]
LONG = "The sky is blue since air scatters blue light more than red light. " * 40
Post = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneSystem]:
    with OneSystem(lambda: tmp_path_factory.mktemp("system")) as one_system:
        yield one_system


@pytest.fixture(scope="session")
def cross_encoder(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Spec:
    """tiny-bert as a classifier with one label. vLLM makes its weights up."""
    folder = tmp_path_factory.mktemp("cross-encoder")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).symlink_to((tiny_bert / name).resolve())
    config = json.loads((tiny_bert / "config.json").read_text())
    labels = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "x"}, "label2id": {"x": 0}}
    (folder / "config.json").write_text(json.dumps({**config, **labels}))
    return Spec("tiny-ranker", folder, ("--load-format", "dummy"))


@pytest.fixture
def cross_encoder_vllm(servers: Servers, cross_encoder: Spec) -> VllmServer:
    return servers.get(cross_encoder)


def sender(url: str, model: str) -> Post:
    def send(path: str, **fields: Any) -> httpx.Response:
        return httpx.post(url + path, json={"model": model, **fields}, trust_env=False, timeout=ANSWER_TIMEOUT)

    return send


@pytest.fixture
def post(systems: OneSystem, all_minilm_vllm: VllmServer) -> Post:
    return sender(systems.url(all_minilm_vllm), "all-minilm:latest")


@pytest.fixture
def post_ranker(systems: OneSystem, cross_encoder_vllm: VllmServer) -> Post:
    return sender(systems.url(cross_encoder_vllm), "tiny-ranker")


def answered(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def refused(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 400, response.text
    found: dict[str, Any] = response.json()["error"]
    return found


def test_vectors_as_base64_are_those_as_floats_and_those_of_tokens(post: Post) -> None:
    floats = answered(post("/v1/embeddings", input=[QUERY, ""]))
    packed = answered(post("/v1/embeddings", input=[QUERY, ""], encoding_format="base64"))
    tokens = answered(post("/tokenize", prompt=QUERY))["tokens"]
    of_tokens = answered(post("/v1/embeddings", input=[tokens]))["data"][0]["embedding"]
    assert floats["model"] == "all-minilm:latest"
    for one, other in zip(floats["data"], packed["data"], strict=True):
        assert one["embedding"] == pytest.approx(struct.unpack("<384f", base64.b64decode(other["embedding"])), abs=1e-6)
    assert of_tokens == pytest.approx(floats["data"][0]["embedding"], abs=1e-4)


def test_a_text_that_is_too_long_has_openais_code(post: Post) -> None:
    for path, fields in (
        ("/v1/embeddings", {"input": LONG}),
        ("/v1/rerank", {"query": QUERY, "documents": [LONG]}),
        ("/v1/score", {"text_1": QUERY, "text_2": LONG}),
    ):
        error = refused(post(path, **fields))
        assert (path, error["code"]) == (path, "context_length_exceeded")
        answered(post(path, truncate_prompt_tokens=-1, **fields))


def test_dimensions_that_the_model_lacks_are_refused_in_vllms_words(post: Post) -> None:
    assert "Matryoshka" in refused(post("/v1/embeddings", input="a", dimensions=64))["message"]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_the_document_that_answers_the_query_ranks_first(post: Post, path: str) -> None:
    found = answered(post(path, query=QUERY, documents=[{"text": DOCUMENTS[0]}, *DOCUMENTS[1:]], top_n=2))
    assert [found["model"], len(found["results"]), found["results"][0]["index"]] == ["all-minilm:latest", 2, 1]
    assert found["results"][0]["document"]["text"] == DOCUMENTS[1]


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_scores_are_the_same_in_every_spelling(post: Post, path: str) -> None:
    one = answered(post(path, text_1=QUERY, text_2=DOCUMENTS))
    other = answered(post(path, queries=QUERY, documents=DOCUMENTS))
    assert one["model"] == "all-minilm:latest"
    assert [each["score"] for each in one["data"]] == pytest.approx([each["score"] for each in other["data"]])
    assert max(one["data"], key=lambda each: each["score"])["index"] == 1


def test_tokens_become_the_text_again(post: Post) -> None:
    found = answered(post("/tokenize", prompt="the sky", return_token_strs=True))
    assert "sky" in found["token_strs"]
    assert "the sky" in answered(post("/detokenize", tokens=found["tokens"]))["prompt"]


def test_tokens_beyond_the_vocabulary_are_refused_or_skipped(post: Post) -> None:
    assert post("/detokenize", tokens=[2**32 - 1]).status_code in (200, 400)
    assert post("/v1/embeddings", input=[[2**32 - 1]]).status_code == 400


def test_a_cross_encoder_ranks_and_scores_but_embeds_nothing(post_ranker: Post) -> None:
    ranked = answered(post_ranker("/v1/rerank", query=QUERY, documents=DOCUMENTS))
    assert {each["index"] for each in ranked["results"]} == {0, 1, 2}
    assert ranked["model"] == "tiny-ranker"
    assert len(answered(post_ranker("/score", text_1=[QUERY] * 3, text_2=DOCUMENTS))["data"]) == 3
    assert answered(post_ranker("/tokenize", prompt=QUERY))["count"] > 0
    error = refused(post_ranker("/v1/embeddings", input=QUERY))
    assert error["message"] == '"tiny-ranker" does not support embeddings: use an embedding model'


def test_a_chat_with_a_cross_encoder_is_refused(post_ranker: Post) -> None:
    chat = post_ranker("/v1/chat/completions", messages=[{"role": "user", "content": "hi"}])
    assert refused(chat)["message"] == '"tiny-ranker" does not support chat'
