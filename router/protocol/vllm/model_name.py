"""Puts the model's name, as the client spelled it, into a worker's answer (R045)."""

from __future__ import annotations

from typing import Any

import msgspec

from vllama_pool.router.protocol.vllm.api import encode

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def name_field(name: str) -> bytes:
    """Return the field as vLLM encodes it."""
    return b'"model":' + encode(name)


def with_model(document: bytes, served: str, name: str) -> bytes:
    """Replace the name in a JSON object. Raises msgspec.DecodeError for anything else."""
    if served == name:
        return document
    before, found, after = document.partition(name_field(served))
    if found and before.count(b"{") == 1:  # no other object, whose field it could be, has begun
        return b"".join((before, name_field(name), after))
    fields: dict[str, Any] = _decode_fields(document)
    return encode({**fields, "model": name}) if "model" in fields else document
