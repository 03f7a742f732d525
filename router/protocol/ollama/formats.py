"""Translation of Ollama's `format` into vLLM's `response_format` (R057)."""

from __future__ import annotations

import msgspec

from vllama_pool.router.errors import ClientError
from vllama_pool.router.protocol.vllm.api import VllmJsonSchema, VllmResponseFormat

_UNSET = (b"", b"null", b'""')


def check_format(value: msgspec.Raw) -> None:
    """Raises ClientError 500."""
    raw = bytes(value)
    if raw in _UNSET or raw == b'"json"' or raw[:1] == b"{":
        return
    quoted = '"' + raw.decode().replace("\\", "\\\\").replace('"', '\\"') + '"'
    raise ClientError(f'invalid format: {quoted}; expected "json" or a valid JSON Schema object')


def translate(value: msgspec.Raw) -> VllmResponseFormat | None:
    raw = bytes(value)
    if raw in _UNSET:
        return None
    if raw == b'"json"':
        return VllmResponseFormat(type="json_object")
    return VllmResponseFormat(type="json_schema", json_schema=VllmJsonSchema(name="response", schema=value))
