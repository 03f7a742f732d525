"""POST /api/show, answered from what workers said of their models (R109-R111, R148)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from config.names import InvalidName, parse
from router.errors import BadRequest
from router.protocol import gojson
from router.protocol.catalogue import CatalogueModel, Details, details, modified_at
from router.protocol.gojson import BOOL, OBJECT, STRING, struct
from router.protocol.lines import encode
from workers.record import ModelInfo

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


class Shown(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Fields in Ollama's order; those with a default are omitted when empty."""

    license: str = ""
    modelfile: str
    parameters: str = ""
    template: str = ""
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str] | None = None
    modified_at: str
    replicas_differ: dict[str, list[str | int]] | None = None


_SHOW = struct(
    "api.ShowRequest", model=STRING, name=STRING, verbose=BOOL, system=STRING, template=STRING, options=OBJECT
)
_decoder = msgspec.json.Decoder(ShowRequest)


def decode_show(body: bytes) -> ShowRequest:
    """Raises BadRequest in Ollama's words."""
    try:
        request = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        exact = gojson.rewrite(body, _SHOW)
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


def show(model: CatalogueModel, request: ShowRequest, user_agent: str) -> bytes:
    """`user_agent` is the client's header: Copilot is shown the name that it asked for (R110)."""
    merged = model.merged
    info = merged.info
    parameters = {**info.defaults, **model.defaults.options}
    facts = _model_info(model.name, info)
    if user_agent.startswith(_COPILOT):
        facts["general.basename"] = request.wanted
    return encode(
        Shown(
            modelfile=_modelfile(model.name, parameters, info.license),
            details=details(info, lengths=False),
            model_info=facts,
            modified_at=modified_at(info),
            license=info.license,
            parameters="\n".join(f"{key:<{_COLUMN}} {text}" for key, text in _parameter_lines(parameters)),
            template=info.template,
            capabilities=list(info.capabilities) or None,
            replicas_differ=merged.differ or None,
        )
    )


def _model_info(name: str, info: ModelInfo) -> dict[str, Any]:
    """Never null, and its numbers are numbers: integrations fall over otherwise (R111). Records hold no arrays,
    so there is nothing that `verbose` would add (R109)."""
    architecture = info.architecture or "unknown"
    facts: dict[str, Any] = {"general.architecture": architecture, "general.basename": _basename(name)}
    if info.parameter_count:
        facts["general.parameter_count"] = info.parameter_count
    facts.update({f"{architecture}.{key}": value for key, value in sorted(info.metadata.items())})
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


def _parameter_lines(parameters: Mapping[str, Any]) -> list[tuple[str, str]]:
    """One line per value, a list's key repeated; strings in quotes."""
    lines: list[tuple[str, str]] = []
    for key, value in sorted(parameters.items()):
        values: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
        lines.extend((key, msgspec.json.encode(item).decode()) for item in values if item is not None)
    return lines


def _modelfile(name: str, parameters: Mapping[str, Any], license_text: str) -> str:
    lines = ["# The model is served by vLLM. This Modelfile says what it adds up to.", f"FROM {name}"]
    lines += [f"PARAMETER {key} {text}" for key, text in _parameter_lines(parameters)]
    if license_text:
        lines.append(f'LICENSE """{license_text}"""')
    return "\n".join(lines) + "\n"
