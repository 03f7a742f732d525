"""Model lists in the formats of OpenAI and Anthropic, and for Ollama's launcher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from vllama_pool.config.names import InvalidName, parse
from vllama_pool.router.protocol.clock import rfc3339
from vllama_pool.router.protocol.json_lines import encode
from vllama_pool.router.protocol.model_view import ModelView, human_number


class AnthropicModel(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="model"):
    id: str
    display_name: str
    created_at: str
    lifecycle: str
    max_input_tokens: int | None = None


class Recommendation(msgspec.Struct, frozen=True, omit_defaults=True):
    model: str
    description: str
    context_length: int = 0


def openai_models(models: Sequence[ModelView]) -> bytes:
    """GET /v1/models (R117)."""
    return encode({"object": "list", "data": [_openai_model(model, model.name) for model in _newest_first(models)]})


def openai_model(model: ModelView, requested: str) -> bytes:
    """GET /v1/models/NAME, with the name as requested (R117)."""
    return encode(_openai_model(model, requested))


def anthropic_models(models: Sequence[ModelView]) -> bytes:
    """All models are one page, whatever the query asks for."""
    data = [_anthropic_model(model, model.name) for model in _newest_first(models)]
    ids = {"first_id": data[0].id, "last_id": data[-1].id} if data else {"first_id": None, "last_id": None}
    return encode({"data": data, "has_more": False, **ids})


def anthropic_model(model: ModelView, requested: str) -> bytes:
    return encode(_anthropic_model(model, requested))


def recommendations(models: Sequence[ModelView]) -> bytes:
    return encode({"recommendations": [_recommended(model) for model in models if _chats(model)]})


def _newest_first(models: Sequence[ModelView]) -> list[ModelView]:
    return sorted(models, key=lambda model: (-model.modified, model.name))


def _anthropic_model(model: ModelView, name: str) -> AnthropicModel:
    created = rfc3339(int(model.modified) * 10**9)
    return AnthropicModel(name, name, created, "active", model.merged.info.context_length or None)


def _openai_model(model: ModelView, name: str) -> dict[str, Any]:
    created = int(model.modified)
    return {"id": name, "object": "model", "created": created, "owned_by": _namespace(name)}


def _namespace(name: str) -> str:
    try:
        return parse(name).namespace
    except InvalidName:
        return "library"


def _chats(model: ModelView) -> bool:
    return "completion" in model.merged.info.capabilities


def _recommended(model: ModelView) -> Recommendation:
    info = model.merged.info
    size = f"{human_number(info.parameter_count)} parameters, " if info.parameter_count else ""
    return Recommendation(model.name, f"{size}served by this pool", info.context_length)
