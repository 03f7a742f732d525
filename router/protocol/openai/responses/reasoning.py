"""Reasoning that clients without a memory on the server send back.

A client that asks for `reasoning.encrypted_content` returns that field instead of the text, as Codex does. vLLM leaves
it empty, so it gets the text itself, as in Ollama (R118).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from vllama_pool.router.protocol.json_lines import encode
from vllama_pool.router.protocol.openai.responses.items import Content
from vllama_pool.router.protocol.vllm.api import INVALID_JSON

ENCRYPTED = "reasoning.encrypted_content"
"""The value of `include`."""
_OPAQUE = re.compile(r"gAAAA[\w=-]+\Z")
"""A Fernet token, which only OpenAI can read."""
_MARK = b'"reasoning"'


class _Reasoning(msgspec.Struct, frozen=True):
    type: str = ""
    content: list[Content] | None = None
    encrypted_content: str | None = None


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_reasoning = msgspec.json.Decoder(_Reasoning).decode


def readable(encrypted: str | None) -> str:
    """Return the text of `encrypted_content`, "" if only OpenAI can read it."""
    return "" if encrypted is None or _OPAQUE.match(encrypted) else encrypted


def with_encrypted(item: bytes) -> bytes:
    """Put an item's reasoning into `encrypted_content`."""
    if _MARK not in item:
        return item
    try:
        read = _decode_reasoning(item)
    except INVALID_JSON:
        return item
    text = "\n".join(part.text for part in read.content or () if part.text)
    if read.type != "reasoning" or read.encrypted_content is not None or not text:
        return item
    fields: dict[str, Any] = _decode_fields(item)
    return encode({**fields, "encrypted_content": text})


def with_encrypted_output(response: bytes) -> bytes:
    """Do so for all items of a response."""
    if _MARK not in response:
        return response
    fields: dict[str, Any] = _decode_fields(response)
    if "output" not in fields:
        return response
    items = [msgspec.Raw(with_encrypted(bytes(item))) for item in _decode_items(fields["output"])]
    return encode({**fields, "output": items})
