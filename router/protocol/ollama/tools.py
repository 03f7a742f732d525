"""Translation of Ollama's tools into vLLM's (R079)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from vllama_pool.router.protocol.ollama.requests import DeclaredTool, DeclaredToolFunction
from vllama_pool.router.protocol.vllm import api

_NO_PARAMETERS = msgspec.Raw(b'{"type":"object","properties":{}}')
"""Chat templates read `properties`."""
_DATA = ("default", "const", "enum", "examples", "example")
"""Keys whose values may be null."""
_MAPS = ("properties", "$defs", "definitions", "patternProperties")


def translate(declared: Sequence[DeclaredTool] | None) -> list[api.VllmTool] | None:
    """Omit tools without a name, such as Ollama's empty function: vLLM refuses them, and no model can call them.

    None for an empty list, which vLLM refuses.
    """
    return [_tool(tool.function) for tool in declared or () if tool.function.name] or None


def _tool(function: DeclaredToolFunction) -> api.VllmTool:
    return api.VllmTool(api.VllmToolFunction(function.name, function.description, _parameters(function.parameters)))


def _parameters(raw: msgspec.Raw) -> msgspec.Raw:
    """A null is an absent key, as in Go; templates and parsers expect an object or a list."""
    schema = bytes(raw)
    if schema in (b"", b"null"):
        return _NO_PARAMETERS
    if b"null" not in schema:
        return raw
    try:
        return msgspec.Raw(msgspec.json.encode(_without_nulls(msgspec.json.decode(schema))))
    except (msgspec.DecodeError, RecursionError):
        return raw


def _without_nulls(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_nulls(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _in_key(key, value) for key, value in schema.items() if value is not None or key in _DATA}


def _in_key(key: str, value: Any) -> Any:
    if key in _DATA:
        return value
    if key in _MAPS and isinstance(value, dict):
        return {name: {} if inner is None else _without_nulls(inner) for name, inner in value.items()}
    return _without_nulls(value)
