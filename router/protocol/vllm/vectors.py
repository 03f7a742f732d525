"""Embedding vectors: 32-bit floats, of which nine digits distinguish any two."""

from __future__ import annotations

import binascii
import math
import struct
from collections.abc import Sequence

_FLOAT_BYTES = 4
_MIN_LENGTH = 1e-12
"""Keeps a zero vector zero, as in Ollama."""


class NotFinite(ValueError):
    text = "embedding contains NaN or Inf values"
    """Ollama's text (R099)."""


def decode(embedding: str | Sequence[float]) -> Sequence[float]:
    """Decode base64 of little-endian 32-bit floats, or a list of numbers. Raises ValueError."""
    values = _unpacked(embedding) if isinstance(embedding, str) else embedding
    try:
        finite = math.isfinite(math.fsum(map(abs, values)))
    except OverflowError:  # numbers far above a 32-bit float
        finite = False
    if not finite:
        raise NotFinite
    return values


def normalised(values: Sequence[float], dimensions: int = 0) -> Sequence[float]:
    """Truncate to `dimensions` (0 keeps all), then scale to length 1 (R099)."""
    if 0 < dimensions < len(values):
        values = values[:dimensions]
    length = max(math.hypot(*values), _MIN_LENGTH)
    return [value / length for value in values]


def encode(values: Sequence[float]) -> bytes:
    return b"[" + (b"%.9g," * len(values) % tuple(values))[:-1] + b"]"


def _unpacked(encoded: str) -> Sequence[float]:
    data = binascii.a2b_base64(encoded, strict_mode=True)
    count, rest = divmod(len(data), _FLOAT_BYTES)
    if rest:
        raise ValueError(f"{len(data)} bytes are not a sequence of 32-bit floats")
    return struct.unpack(f"<{count}f", data)
