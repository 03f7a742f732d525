"""Embedding vectors: read from a worker's answer, default_messages to length 1, cut, and written as JSON.

They are 32-bit floats on both sides. Nine digits tell any two of them apart, so no more are written.
"""

from __future__ import annotations

import binascii
import math
import struct
from collections.abc import Sequence

FLOAT = 4
"""Bytes."""
SHORTEST = 1e-12
"""Lengths below this count as this much, so that a vector of zeros stays one, as in Ollama."""


class NotFinite(ValueError):
    """A vector holds NaN or an infinity, for which JSON has no number."""

    text = "embedding contains NaN or Inf values"
    """Ollama's own (R099)."""


def read(given: str | Sequence[float]) -> Sequence[float]:
    """A vector as vLLM writes it: base64 of little-endian 32-bit floats, or a list of numbers.

    Raises ValueError for what is neither, NotFinite for NaN and infinities.
    """
    values = _unpacked(given) if isinstance(given, str) else given
    try:
        finite = math.isfinite(math.fsum(map(abs, values)))
    except OverflowError:  # numbers far above what a 32-bit float holds
        finite = False
    if not finite:
        raise NotFinite
    return values


def normalised(values: Sequence[float], dimensions: int = 0) -> Sequence[float]:
    """The vector with length 1 (R099). Of more than `dimensions` components the rest is cut off first; 0 keeps all."""
    if 0 < dimensions < len(values):
        values = values[:dimensions]
    length = max(math.hypot(*values), SHORTEST)
    return [value / length for value in values]


def written(values: Sequence[float]) -> bytes:
    """The vector as a JSON array."""
    return b"[" + (b"%.9g," * len(values) % tuple(values))[:-1] + b"]"


def _unpacked(encoded: str) -> Sequence[float]:
    data = binascii.a2b_base64(encoded, strict_mode=True)  # its Error is a ValueError
    count, rest = divmod(len(data), FLOAT)
    if rest:
        raise ValueError(f"{len(data)} bytes are no sequence of 32-bit floats")
    return struct.unpack(f"<{count}f", data)
