"""What the two endpoints share in writing their objects, beside the fields of their own."""

from __future__ import annotations

import msgspec

from router.protocol.operation import Reply

NDJSON = "application/x-ndjson"
JSON = "application/json; charset=utf-8"

encode = msgspec.json.Encoder().encode


def quoted(text: str) -> bytes:
    """A JSON string."""
    return encode(text)


def content_type(stream: bool) -> str:
    """R040, R044."""
    return NDJSON if stream else JSON


def reply(answer: msgspec.Struct) -> Reply:
    """One plain object, also where a stream was asked for (R088)."""
    return Reply(encode(answer))
