"""POST /api/show (R109-R111, R148)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from vllama_pool.config.names import InvalidName, parse
from vllama_pool.router.protocol.json_lines import encode
from vllama_pool.router.protocol.model_view import ModelView
from vllama_pool.router.protocol.ollama.catalogue import ModelDetails, details, modified_at
from vllama_pool.router.protocol.ollama.gojson import BodyDecoder
from vllama_pool.router.protocol.ollama.modelfile import modelfile, parameter_values
from vllama_pool.router.protocol.ollama.request_base import ModelRequest, require_model
from vllama_pool.workers.registry.record import ModelInfo

_COPILOT = "GitHubCopilotChat/"
_COLUMN = 30


class ShowRequest(ModelRequest, frozen=True):
    """Only the name has an effect."""

    verbose: bool = False
    system: str | None = None
    template: str | None = None
    options: dict[str, Any] | None = None


class ShowResponse(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Fields in Ollama's order."""

    license: str = ""
    modelfile: str
    parameters: str = ""
    template: str = ""
    system: str = ""
    details: ModelDetails
    messages: list[dict[str, Any]] | None = None
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str
    replicas_differ: dict[str, list[str | int]] | None = None


SHOW = BodyDecoder(ShowRequest)


def decode_show(body: bytes) -> ShowRequest:
    request = SHOW.decode(body)
    require_model(request.requested)
    return request


def show(model: ModelView, request: ShowRequest, user_agent: str) -> bytes:
    """`user_agent`: Copilot gets the requested name back (R110)."""
    info = model.merged.info
    parameters = {**info.defaults, **model.defaults.options}
    license_text = "\n".join(filter(None, (info.license, model.license)))
    model_info = _model_info(model.name, info)
    if user_agent.startswith(_COPILOT):
        model_info["general.basename"] = request.requested
    return encode(
        ShowResponse(
            license=license_text,
            modelfile=modelfile(
                model.name,
                model.base or model.name,
                parameters,
                model.defaults.system,
                model.defaults.messages,
                license_text,
            ),
            parameters=_columns(parameters),
            template=_template(info),
            system=model.defaults.system,
            details=details(model, lengths=False),
            messages=[dict(message) for message in model.defaults.messages] or None,
            model_info=model_info,
            capabilities=list(info.capabilities),
            modified_at=modified_at(model),
            replicas_differ=model.merged.differ or None,
        )
    )


def _columns(parameters: Mapping[str, Any]) -> str:
    """One value per line, as Continue requires."""
    pairs = ((key, msgspec.json.encode(value).decode()) for key, value in parameter_values(parameters))
    return "\n".join(f"{key:<{_COLUMN}} {text}" for key, text in pairs)


def _template(info: ModelInfo) -> str:
    """Empty where Continue would mistake it for a fill-in-the-middle template."""
    return "" if ".Suffix" in info.template and "insert" not in info.capabilities else info.template


def _model_info(name: str, info: ModelInfo) -> dict[str, Any]:
    """Clients require numbers, and no nulls (R111). `verbose` adds nothing (R109)."""
    architecture = info.architecture or "unknown"
    result: dict[str, Any] = {"general.architecture": architecture, "general.basename": _basename(name)}
    if info.parent:
        result["general.base_model.0.name"] = info.parent
    if info.parameter_count:
        result["general.parameter_count"] = info.parameter_count
    has_vision = "vision" in info.capabilities  # older clients mistake any "vision." key for it
    result |= {
        f"{architecture}.{key}": value
        for key, value in sorted(info.metadata.items())
        if has_vision or not key.startswith("vision.")
    }
    if info.context_length:
        result[f"{architecture}.context_length"] = info.context_length
    if info.embedding_length:
        result[f"{architecture}.embedding_length"] = info.embedding_length
    return result


def _basename(name: str) -> str:
    try:
        return parse(name).model
    except InvalidName:
        return name
