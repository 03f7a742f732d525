"""The digest of a request's content. Computed only once something has crashed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from vllama_pool.config.names import lookup_key

_NOT_CONTENT = frozenset(("model", "name", "stream", "streamed", "stream_options", "keep_alive", "user"))
"""Fields that do not change what the engine computes. The model's name counts by its key."""


def digest_of(operation: str, request: Any) -> str:
    """Return 32 hex digits over operation, model, messages and options; "" for a request without a JSON form."""
    try:
        fields = {name: getattr(request, name) for name in request.__struct_fields__ if name not in _NOT_CONTENT}
        content = [operation, lookup_key(request.model), _plain(fields)]
        data = msgspec.json.encode(content, order="deterministic")
    except (TypeError, ValueError, AttributeError):
        return ""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _plain(value: Any) -> Any:
    """Return what JSON can hold. Equal requests are equal however their JSON was written."""
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, msgspec.Raw):
        raw = bytes(value)
        return msgspec.json.decode(raw) if raw else None
    return None if value is msgspec.UNSET else value
