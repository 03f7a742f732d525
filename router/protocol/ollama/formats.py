"""Translation of Ollama's `format` into vLLM's `response_format` (R057)."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from vllama_pool.router.errors import ClientError
from vllama_pool.router.protocol.json_schema.errors import unreadable
from vllama_pool.router.protocol.json_schema.translate import translated
from vllama_pool.router.protocol.vllm.api import VllmJsonSchema, VllmResponseFormat

_UNSET = (b"", b"null", b'""')

Outcome: TypeAlias = VllmResponseFormat | ClientError | None
"""The error is raised only when the request's other fields have been checked."""


def translate(value: msgspec.Raw) -> Outcome:
    raw = bytes(value)
    if raw in _UNSET:
        return None
    if raw == b'"json"':
        return VllmResponseFormat(type="json_object")
    if raw[:1] == b"{":
        return _translate_schema(raw)
    quoted = '"' + raw.decode().replace("\\", "\\\\").replace('"', '\\"') + '"'
    return ClientError(f'invalid format: {quoted}; expected "json" or a valid JSON Schema object')


def require_valid(outcome: Outcome) -> VllmResponseFormat | None:
    """Raises ClientError."""
    if isinstance(outcome, ClientError):
        raise outcome
    return outcome


def _translate_schema(raw: bytes) -> Outcome:
    try:
        schema = msgspec.Raw(msgspec.json.encode(translated(msgspec.json.decode(raw))))
    except (msgspec.DecodeError, RecursionError):
        return unreadable()
    except ClientError as error:
        return error.with_traceback(None)
    return VllmResponseFormat(type="json_schema", json_schema=VllmJsonSchema(name="response", schema=schema))
