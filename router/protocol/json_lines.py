"""JSON as Ollama encodes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"
JSON = "application/json; charset=utf-8"

_LESS, _GREATER, _AMPERSAND = b"<>&"
"""Numbers, which `in` finds in a third of the time that it takes for bytes."""

_encoder = msgspec.json.Encoder()
_encode, _encode_lines = _encoder.encode, _encoder.encode_lines


def encode(value: Any) -> bytes:
    """Encode with Go's escapes (R040)."""
    return _escaped(_encode(value))


def encode_lines(values: Sequence[Any]) -> bytes:
    """Encode each value on its own line. The lines end in LF, which no value contains."""
    return _escaped(_encode_lines(values))


def _escaped(data: bytes) -> bytes:
    if _LESS in data or _GREATER in data or _AMPERSAND in data:
        data = data.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")
    if not data.isascii() and b"\xe2\x80" in data:
        data = data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return data


def content_type(stream: bool) -> str:
    """R040, R044."""
    return NDJSON if stream else JSON
