"""Capability checks, with Ollama's texts (R156-R159)."""

from __future__ import annotations

from collections.abc import Sequence

from vllama_pool.config.names import InvalidName, parse
from vllama_pool.router.errors import BadRequest
from vllama_pool.workers.registry.record import ModelInfo


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
    missing = [name for name in capabilities if name not in info.capabilities]
    if missing:
        full = full_name(model)
        raise BadRequest("\n".join(f"{full} does not support {name}" for name in missing))


def full_name(model: str) -> str:
    """Add registry, namespace and tag. Names outside Ollama's grammar stay unchanged."""
    try:
        return parse(model).full
    except InvalidName:
        return model
