"""Capability checks, with Ollama's texts (R156-R159)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vllama_pool.config.names import InvalidName, parse
from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.router.errors import AttemptFailed, BadRequest, Refused
from vllama_pool.workers.registry.record import ModelInfo

_NO_TOOLS = re.compile(r"tool choice requires|requires --tool-call-parser")
_NO_MEDIA = re.compile(r"is not a multimodal model|at most 0 \w+\(s\) may be provided", re.IGNORECASE)


def refuse_image_generation(info: ModelInfo) -> None:
    """Raises BadRequest (R112)."""
    if "image" in info.capabilities:
        raise BadRequest("image generation models are not currently supported")


def require_completion(verb: str, model: str, info: ModelInfo) -> None:
    """Raises BadRequest with the requested name (R156, R157)."""
    if "completion" not in info.capabilities:
        raise BadRequest(f'"{model}" does not support {verb}')


def require(capabilities: Sequence[str], model: str, info: ModelInfo) -> None:
    """Raises BadRequest with the full name, one line per missing capability (R159)."""
    missing = [name for name in capabilities if is_missing(name, info)]
    if missing:
        raise BadRequest(_not_supported(missing, model))


def is_missing(capability: str, info: ModelInfo) -> bool:
    """True if the model is known not to have it."""
    return capability not in info.capabilities and capability not in info.undetected


def require_tools(model: str, info: ModelInfo, defaults: Defaults) -> None:
    """Raises BadRequest, unless the model ignores tools that it cannot call."""
    if not defaults.ignores_tools:
        require(("tools",), model, info)


def drops_tools(info: ModelInfo, defaults: Defaults, refusals: Sequence[AttemptFailed] = ()) -> bool:
    """True if the model ignores tools and cannot call them, as is known or as the worker's refusals say."""
    return defaults.ignores_tools and (is_missing("tools", info) or any(map(refuses_tools, refusals)))


def refuses_tools(failure: AttemptFailed) -> bool:
    return _NO_TOOLS.search(failure.text) is not None


def explain_refusal(failure: AttemptFailed, model: str, media: Sequence[str], defaults: Defaults = NO_DEFAULTS) -> None:
    """Raises Refused with Ollama's text if the worker lacks a capability that was not known to be missing.

    `media`: the capabilities that the request's images and audio need.
    """
    if refuses_tools(failure) and not defaults.ignores_tools:
        raise Refused(_not_supported(["tools"], model), status=400)
    if media and _NO_MEDIA.search(failure.text):
        raise Refused(_not_supported(media, model), status=400)


def _not_supported(missing: Sequence[str], model: str) -> str:
    full = full_name(model)
    return "\n".join(f"{full} does not support {name}" for name in missing)


def full_name(model: str) -> str:
    """Add registry, namespace and tag. Names outside Ollama's grammar stay unchanged."""
    try:
        return parse(model).full
    except InvalidName:
        return model
