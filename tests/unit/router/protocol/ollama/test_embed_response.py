"""Translation of vLLM's vectors into Ollama's responses."""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import pytest

from tests.support.protocol import CLOCK, TIMING
from vllama_pool.router.protocol.ollama import embed
from vllama_pool.router.protocol.ollama.embed_response import EmbedTranslator
from vllama_pool.router.protocol.operation import Timing


def vector(*values: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def answer(*embeddings: Any, indexes: list[int] | None = None, tokens: int = 8) -> bytes:
    data = [
        {"index": index, "object": "embedding", "embedding": embedding}
        for index, embedding in zip(indexes or range(len(embeddings)), embeddings, strict=True)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None}
    return json.dumps({"id": "embd-1", "object": "list", "model": "m", "data": data, "usage": usage}).encode()


def embed_translator(timing: Timing = TIMING, **fields: Any) -> EmbedTranslator:
    body = {"model": "MiniLM", "input": ["a", "b"], **fields}
    return EmbedTranslator(embed.decode_embed(json.dumps(body).encode()), timing, CLOCK)


def embeddings_translator() -> EmbedTranslator:
    return EmbedTranslator(embed.decode_embeddings(b'{"model": "MiniLM", "prompt": "a"}'), TIMING, CLOCK)


def translated(translator: EmbedTranslator, body: bytes) -> dict[str, Any]:
    assert translator.feed(body) == b""
    found: dict[str, Any] = json.loads(translator.finish())
    return found


@pytest.mark.rule(25)
def test_an_embed_response_echoes_the_model_and_has_every_metric() -> None:
    translator = embed_translator()
    assert translated(translator, answer(vector(1, 0), vector(0, 1))) == {
        "model": "MiniLM",
        "embeddings": [[1, 0], [0, 1]],
        "total_duration": 10_000_000,
        "load_duration": 2_000_000,
        "prompt_eval_count": 8,
    }
    assert (translator.done, translator.usage.prompt_tokens, translator.failure) == (True, 8, None)


@pytest.mark.rule(42)
def test_a_missing_token_count_is_omitted() -> None:
    assert "prompt_eval_count" not in translated(embed_translator(), answer(vector(1), vector(1), tokens=0))


@pytest.mark.rule(26)
def test_tokens_of_the_embeddings_endpoint_are_counted_but_not_sent() -> None:
    translator = embeddings_translator()
    translated(translator, answer(vector(3, 4), tokens=7))
    assert translator.usage.prompt_tokens == 7


@pytest.mark.rule(99)
def test_numbers_above_a_floats_range_are_refused() -> None:
    translator = embed_translator()
    assert translated(translator, answer([1e308, 1e308], [1.0])) == {"error": "embedding contains NaN or Inf values"}
    assert translator.failure is not None


def test_embed_durations_are_at_least_a_nanosecond() -> None:
    now = CLOCK.monotonic_ns()
    found = translated(embed_translator(Timing(arrived=now, sent=now)), answer(vector(1), vector(1)))
    assert (found["total_duration"], found["load_duration"]) == (1, 1)


@pytest.mark.rule(26)
def test_an_embeddings_response_is_the_unchanged_vector() -> None:
    assert translated(embeddings_translator(), answer(vector(3, -4))) == {"embedding": [3, -4]}


@pytest.mark.rule(99)
def test_vectors_are_normalised_and_truncated_to_dimensions() -> None:
    long = answer(vector(3, 4, 12), vector(0.5, 0, 0))
    assert translated(embed_translator(), long)["embeddings"] == [pytest.approx([3 / 13, 4 / 13, 12 / 13]), [1, 0, 0]]
    assert translated(embed_translator(dimensions=2), long)["embeddings"] == [pytest.approx([0.6, 0.8]), [1, 0]]
    for ignored in (3, 4, 1000, 0, -1):
        assert len(translated(embed_translator(dimensions=ignored), long)["embeddings"][0]) == 3


def test_vectors_are_sorted_by_index() -> None:
    found = translated(embed_translator(), answer(vector(0, 1), vector(1, 0), indexes=[1, 0]))
    assert found["embeddings"] == [[1, 0], [0, 1]]


def test_vectors_may_be_lists_of_numbers() -> None:
    assert translated(embed_translator(), answer([3.0, 4.0], [1, 0]))["embeddings"] == [
        pytest.approx([0.6, 0.8]),
        [1, 0],
    ]


@pytest.mark.rule(99)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_fails_the_whole_batch(bad: float) -> None:
    for translator, body in (
        (embed_translator(), answer(vector(1, 0), vector(bad, 1))),
        (embeddings_translator(), answer(vector(bad))),
    ):
        assert translated(translator, body) == {"error": "embedding contains NaN or Inf values"}
        assert translator.failure is not None
        assert (translator.failure.status, translator.done) == (400, False)


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"not JSON", b'{"data": "x"}', answer(vector(1)), answer(vector(1), "!!!"), answer(vector(1), "AAA=")],
    ids=["empty", "no data", "no JSON", "no list", "too few", "no base64", "no floats"],
)
def test_an_invalid_embedding_response_is_a_502(body: bytes) -> None:
    translator = embed_translator()
    assert "error" in translated(translator, body)
    assert translator.failure is not None
    assert (translator.failure.status, translator.done) == (502, False)


def test_an_embedding_response_may_be_split_anywhere() -> None:
    body = answer(vector(1, 2), vector(3, 4))
    whole = translated(embed_translator(), body)
    translator = embed_translator()
    assert not translator.begun
    for byte in body:
        assert translator.feed(bytes((byte,))) == b""
        assert (translator.ready, translator.begun) == (False, True)
    assert json.loads(translator.finish()) == whole
    assert translator.finish() == b"", "it is said once"
