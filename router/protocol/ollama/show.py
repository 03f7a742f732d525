"""POST /api/show, answered from what workers said of their models (R109-R111, R148)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from vllama_pool.config.names import InvalidName, parse
from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.json_lines import encode
from vllama_pool.router.protocol.model_view import ModelView
from vllama_pool.router.protocol.ollama import gojson
from vllama_pool.router.protocol.ollama.catalogue import ModelDetails, details, modified_at
from vllama_pool.router.protocol.ollama.gojson import BOOL, OBJECT, STRING, struct
from vllama_pool.router.protocol.ollama.modelfile import modelfile, parameter_values
from vllama_pool.workers.registry.record import ModelInfo

_COPILOT = "GitHubCopilotChat/"
_COLUMN = 30


class ShowRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All but the name is taken and not looked at."""

    model: str = ""
    name: str = ""
    verbose: bool = False
    system: str | None = None
    template: str | None = None
    options: dict[str, Any] | None = None

    @property
    def wanted(self) -> str:
        """The stock CLI sends an empty `model` and the name in `name` (trap 12)."""
        return self.model or self.name


class ShowResponse(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Fields in Ollama's order; those with a default are omitted when empty."""

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


SHOW = struct(
    "api.ShowRequest", model=STRING, name=STRING, verbose=BOOL, system=STRING, template=STRING, options=OBJECT
)
_decoder = msgspec.json.Decoder(ShowRequest)


def decode_show(body: bytes) -> ShowRequest:
    """Raises BadRequest in Ollama's words."""
    try:
        request = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        exact = gojson.rewrite(body, SHOW)
        try:
            request = _decoder.decode(exact)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BadRequest(str(error)) from None
    if not request.wanted.strip():
        raise BadRequest("model is required")
    return request


def not_found(requested: str) -> str:
    """Unlike elsewhere, the name is normalised here (R148)."""
    try:
        shown = parse(requested).short
    except InvalidName:
        shown = requested
    return f"model '{shown}' not found"


def show(model: ModelView, request: ShowRequest, user_agent: str) -> bytes:
    """`user_agent` is the client's header: Copilot is shown the name that it asked for (R110)."""
    info = model.merged.info
    parameters = {**info.defaults, **model.defaults.options}
    license_text = "\n".join(filter(None, (info.license, model.license)))
    facts = _model_info(model.name, info)
    if user_agent.startswith(_COPILOT):
        facts["general.basename"] = request.wanted
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
            model_info=facts,
            capabilities=list(info.capabilities),
            modified_at=modified_at(model),
            replicas_differ=model.merged.differ or None,
        )
    )


def _columns(parameters: Mapping[str, Any]) -> str:
    """A value a line and nothing else, which Continue insists on; strings in quotes and escaped."""
    pairs = ((key, msgspec.json.encode(value).decode()) for key, value in parameter_values(parameters))
    return "\n".join(f"{key:<{_COLUMN}} {text}" for key, text in pairs)


def _template(info: ModelInfo) -> str:
    """The chat template, unless some client would take it for one of Ollama's that fills in the middle: Continue looks
    for this word, and for nothing else."""
    return "" if ".Suffix" in info.template and "insert" not in info.capabilities else info.template


def _model_info(name: str, info: ModelInfo) -> dict[str, Any]:
    """Never null, and its numbers are numbers: integrations fall over otherwise (R111). Records hold no arrays,
    so there is nothing that `verbose` would add (R109)."""
    architecture = info.architecture or "unknown"
    facts: dict[str, Any] = {"general.architecture": architecture, "general.basename": _basename(name)}
    if info.parent:
        facts["general.base_model.0.name"] = info.parent
    if info.parameter_count:
        facts["general.parameter_count"] = info.parameter_count
    sees = "vision" in info.capabilities  # older clients take any key of these for the capability
    facts.update(
        {
            f"{architecture}.{key}": value
            for key, value in sorted(info.metadata.items())
            if sees or not key.startswith("vision.")
        }
    )
    if info.context_length:
        facts[f"{architecture}.context_length"] = info.context_length
    if info.embedding_length:
        facts[f"{architecture}.embedding_length"] = info.embedding_length
    return facts


def _basename(name: str) -> str:
    try:
        return parse(name).model
    except InvalidName:
        return name
