"""Vectors that depend on the text alone: the same text, the same vector; length 1."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from collections.abc import Sequence


def vector(tokens: Sequence[int], dimensions: int) -> list[float]:
    """A unit vector that adds up a direction for each token, so that texts with common words are near."""
    sums = [0.0] * dimensions
    for token in tokens:
        for index, value in enumerate(_direction(token, dimensions)):
            sums[index] += value
    if not tokens:
        sums[0] = 1.0
    length = math.sqrt(sum(value * value for value in sums)) or 1.0
    return [value / length for value in sums]


def as_base64(values: Sequence[float]) -> str:
    """Little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def prompts(given: str | list[int] | list[str] | list[list[int]]) -> list[str | list[int]]:
    """The input in any of its forms as a list of texts, each as text or as token ids."""
    if isinstance(given, str):
        return [given]
    if given and isinstance(given[0], int):
        return [[token for token in given if isinstance(token, int)]]
    return [part if isinstance(part, str) else list(part) for part in given if not isinstance(part, int)]


def _direction(token: int, dimensions: int) -> list[float]:
    digest = hashlib.shake_128(token.to_bytes(8, "little")).digest(dimensions)
    return [byte / 127.5 - 1.0 for byte in digest]
