"""vLLM's vectors, folded into Ollama's answers."""

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
    """As vLLM writes it."""
    data = [
        {"index": index, "object": "embedding", "embedding": embedding}
        for index, embedding in zip(indexes or range(len(embeddings)), embeddings, strict=True)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None}
    return json.dumps({"id": "embd-1", "object": "list", "model": "m", "data": data, "usage": usage}).encode()


def folding(timing: Timing = TIMING, **fields: Any) -> EmbedTranslator:
    body = {"model": "MiniLM", "input": ["a", "b"], **fields}
    return EmbedTranslator(embed.decode_embed(json.dumps(body).encode()), timing, CLOCK)


def older() -> EmbedTranslator:
    return EmbedTranslator(embed.decode_embeddings(b'{"model": "MiniLM", "prompt": "a"}'), TIMING, CLOCK)


def folded(translator: EmbedTranslator, body: bytes) -> dict[str, Any]:
    assert translator.feed(body) == b""
    found: dict[str, Any] = json.loads(translator.finish())
    return found


@pytest.mark.rule(25)
def test_the_answer_echoes_the_model_and_has_every_metric() -> None:
    translator = folding()
    assert folded(translator, answer(vector(1, 0), vector(0, 1))) == {
        "model": "MiniLM",
        "embeddings": [[1, 0], [0, 1]],
        "total_duration": 10_000_000,
        "load_duration": 2_000_000,
        "prompt_eval_count": 8,
    }
    assert (translator.done, translator.usage.prompt_tokens, translator.failure) == (True, 8, None)


@pytest.mark.rule(42)
def test_a_count_that_the_worker_does_not_give_is_left_out() -> None:
    assert "prompt_eval_count" not in folded(folding(), answer(vector(1), vector(1), tokens=0))


@pytest.mark.rule(26)
def test_the_older_endpoints_tokens_are_counted_for_us_though_not_told() -> None:
    translator = older()
    folded(translator, answer(vector(3, 4), tokens=7))
    assert translator.usage.prompt_tokens == 7


@pytest.mark.rule(99)
def test_numbers_beyond_any_sum_are_no_fault_of_ours() -> None:
    translator = folding()
    assert folded(translator, answer([1e308, 1e308], [1.0])) == {"error": "embedding contains NaN or Inf values"}
    assert translator.failure is not None


def test_durations_are_at_least_a_nanosecond() -> None:
    now = CLOCK.monotonic_ns()
    found = folded(folding(Timing(arrived=now, sent=now)), answer(vector(1), vector(1)))
    assert (found["total_duration"], found["load_duration"]) == (1, 1)


@pytest.mark.rule(26)
def test_the_older_answer_is_the_vector_alone_and_of_its_own_length() -> None:
    assert folded(older(), answer(vector(3, -4))) == {"embedding": [3, -4]}


@pytest.mark.rule(99)
def test_vectors_are_normalised_and_cut_where_asked() -> None:
    long = answer(vector(3, 4, 12), vector(0.5, 0, 0))
    assert folded(folding(), long)["embeddings"] == [pytest.approx([3 / 13, 4 / 13, 12 / 13]), [1, 0, 0]]
    assert folded(folding(dimensions=2), long)["embeddings"] == [pytest.approx([0.6, 0.8]), [1, 0]]
    for ignored in (3, 4, 1000, 0, -1):
        assert len(folded(folding(dimensions=ignored), long)["embeddings"][0]) == 3


def test_vectors_are_in_the_order_of_the_texts_whatever_the_workers() -> None:
    found = folded(folding(), answer(vector(0, 1), vector(1, 0), indexes=[1, 0]))
    assert found["embeddings"] == [[1, 0], [0, 1]]


def test_a_worker_that_writes_numbers_is_understood_too() -> None:
    assert folded(folding(), answer([3.0, 4.0], [1, 0]))["embeddings"] == [pytest.approx([0.6, 0.8]), [1, 0]]


@pytest.mark.rule(99)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_is_an_error_of_the_whole_batch(bad: float) -> None:
    for translator, body in ((folding(), answer(vector(1, 0), vector(bad, 1))), (older(), answer(vector(bad)))):
        assert folded(translator, body) == {"error": "embedding contains NaN or Inf values"}
        assert translator.failure is not None
        assert (translator.failure.status, translator.done) == (400, False)


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"not JSON", b'{"data": "x"}', answer(vector(1)), answer(vector(1), "!!!"), answer(vector(1), "AAA=")],
    ids=["empty", "no data", "no JSON", "no list", "too few", "no base64", "no floats"],
)
def test_an_answer_that_is_not_understood_is_the_workers_fault(body: bytes) -> None:
    translator = folding()
    assert "error" in folded(translator, body)
    assert translator.failure is not None
    assert (translator.failure.status, translator.done) == (502, False)


def test_the_answer_may_be_cut_anywhere() -> None:
    body = answer(vector(1, 2), vector(3, 4))
    whole = folded(folding(), body)
    translator = folding()
    assert not translator.begun
    for byte in body:
        assert translator.feed(bytes((byte,))) == b""
        assert (translator.ready, translator.begun) == (False, True)
    assert json.loads(translator.finish()) == whole
    assert translator.finish() == b"", "it is said once"
