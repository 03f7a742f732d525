"""What the two endpoints share in writing their objects, beside the fields of their own."""

from __future__ import annotations

from typing import Any

import msgspec

from vllama_pool.router.protocol.operation import DirectResponse

NDJSON = "application/x-ndjson"
JSON = "application/json; charset=utf-8"

_encode = msgspec.json.Encoder().encode


def encode(answer: Any) -> bytes:
    """JSON as Go writes it: what a web page could take for markup is escaped, and two line ends of JavaScript (R040).

    None of these characters stands outside a string in JSON.
    """
    data = _encode(answer)
    if b"<" in data or b">" in data or b"&" in data:
        data = data.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")
    if not data.isascii() and b"\xe2\x80" in data:
        data = data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return data


def quoted(text: str) -> bytes:
    """A JSON string."""
    return encode(text)


def content_type(stream: bool) -> str:
    """R040, R044."""
    return NDJSON if stream else JSON


def reply(answer: msgspec.Struct) -> DirectResponse:
    """One plain object, also where a stream was asked for (R088)."""
    return DirectResponse(encode(answer))
