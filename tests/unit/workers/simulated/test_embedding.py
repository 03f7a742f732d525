"""A simulated worker's vectors, as vLLM 0.32 was seen to answer."""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import pytest

from vllama_pool.workers.simulated.embedding import answer, check
from vllama_pool.workers.simulated.errors import ApiError
from vllama_pool.workers.simulated.options import Options
from vllama_pool.workers.simulated.requests import parse_embedding

OPTIONS = Options(model="minilm", embedding=True, max_model_len=16, dimensions=8)


def asked(**fields: Any) -> dict[str, Any]:
    body = json.dumps({"model": "minilm", **fields}).encode()
    request = parse_embedding(body, "application/json")
    check(request, OPTIONS)
    found: dict[str, Any] = json.loads(answer(request, OPTIONS).body)
    return found


def vectors(found: dict[str, Any]) -> list[list[float]]:
    return [item["embedding"] for item in found["data"]]


def refusal(**fields: Any) -> str:
    with pytest.raises(ApiError) as caught:
        asked(**fields)
    return caught.value.message


def test_a_vector_depends_on_its_text_alone_and_has_length_one() -> None:
    found = asked(input=["one two", "three", "one two"])
    first, second, third = vectors(found)
    assert first == third != second
    assert math.hypot(*first) == pytest.approx(1.0)
    assert [item["index"] for item in found["data"]] == [0, 1, 2]


def test_base64_holds_the_same_numbers() -> None:
    encoded = asked(input="one", encoding_format="base64")["data"][0]["embedding"]
    assert struct.unpack("<8f", base64.b64decode(encoded)) == pytest.approx(vectors(asked(input="one"))[0])


def test_without_the_activation_a_vector_has_its_own_length() -> None:
    plain = vectors(asked(input="one", use_activation=False))[0]
    length = math.hypot(*plain)
    assert length != pytest.approx(1.0)
    assert [value / length for value in plain] == pytest.approx(vectors(asked(input="one"))[0])


def test_each_text_has_two_tokens_more_and_ids_have_none() -> None:
    assert asked(input="")["usage"]["prompt_tokens"] == 2
    assert asked(input=[" one", ""])["usage"]["prompt_tokens"] == 5
    assert asked(input=[5, 6])["usage"]["prompt_tokens"] == 2


def test_a_cut_keeps_the_first_tokens_of_the_text_between_those_two() -> None:
    cut = asked(input=" one two three", truncate_prompt_tokens=3)
    assert vectors(cut) == vectors(asked(input=" one"))
    assert cut["usage"]["prompt_tokens"] == 3
    assert asked(input="one " * 50, truncate_prompt_tokens=-1)["usage"]["prompt_tokens"] == 16
    assert asked(input="one two", truncate_prompt_tokens=1)["usage"]["prompt_tokens"] == 1


def test_invalid_input_is_refused_with_vllms_text() -> None:
    assert "contains at least 17 input tokens" in refusal(input=["one", "one two three " * 8])
    assert refusal(input="x", truncate_prompt_tokens=17).startswith("truncate_prompt_tokens value is greater than")
    assert refusal(input="x", truncate_prompt_tokens=0) == "The decoder prompt cannot be empty"
    assert "does not support Matryoshka embeddings" in refusal(input="x", dimensions=3)
