from __future__ import annotations

import base64
import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.router.protocol.vllm import vectors

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100)


def as_base64(*values: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def as_float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


@given(st.lists(FLOATS, min_size=1, max_size=40))
def test_encoded_vectors_decode_to_the_same_32_bit_floats(values: list[float]) -> None:
    read = vectors.decode(as_base64(*values))
    assert [as_float32(value) for value in json.loads(vectors.encode(read))] == values


def test_vectors_are_encoded_with_nine_digits() -> None:
    written = vectors.encode(vectors.decode(as_base64(0.1, 1.0, 0.0, -0.5, 2.0**-66)))
    assert written == b"[0.100000001,1,0,-0.5,1.35525272e-20]"


@pytest.mark.rule(99)
@given(st.lists(FLOATS, min_size=1, max_size=40), st.integers(-1, 50))
def test_vectors_have_length_one_after_truncation(values: list[float], dimensions: int) -> None:
    cut = vectors.normalised(vectors.decode(values), dimensions)
    assert len(cut) == (dimensions if 0 < dimensions < len(values) else len(values))
    length = math.hypot(*values[: len(cut)])
    if length >= 1e-12:
        assert math.hypot(*cut) == pytest.approx(1.0)
        assert list(cut) == pytest.approx([value / length for value in values[: len(cut)]])


def test_a_zero_vector_stays_zero() -> None:
    assert vectors.normalised((0.0, 0.0)) == [0.0, 0.0]


@pytest.mark.rule(99)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinities_are_refused(bad: float) -> None:
    for given_as in (as_base64(1.0, bad, 2.0), [1.0, bad, 2.0], as_base64(bad, bad)):
        with pytest.raises(vectors.NotFinite) as caught:
            vectors.decode(given_as)
        assert caught.value.text == "embedding contains NaN or Inf values"


@pytest.mark.parametrize("bad", ["!", "AAA", "AAAAAAA=", "A=A"])
def test_invalid_base64_vectors_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        vectors.decode(bad)
