"""What a model is asked for against what it can: refused in Ollama's words and order (R156-R159)."""

from __future__ import annotations

from collections.abc import Sequence

from vllama_pool.config.names import InvalidName, parse
from vllama_pool.router.errors import BadRequest
from vllama_pool.workers.registry.record import ModelInfo


def refuse_image_makers(info: ModelInfo) -> None:
    """Raises BadRequest for a model that makes images (R112)."""
    if "image" in info.capabilities:
        raise BadRequest("image generation models are not currently supported")


def require_completion(verb: str, model: str, info: ModelInfo) -> None:
    """Raises BadRequest, the model's name echoed (R156, R157)."""
    if "completion" not in info.capabilities:
        raise BadRequest(f'"{model}" does not support {verb}')


def require(wanted: Sequence[str], model: str, info: ModelInfo) -> None:
    """Raises BadRequest with the model's full name; several misses are joined by line ends (R159)."""
    missing = [name for name in wanted if name not in info.capabilities]
    if missing:
        full = full_name(model)
        raise BadRequest("\n".join(f"{full} does not support {name}" for name in missing))


def full_name(model: str) -> str:
    """With registry, namespace and tag; a served name outside Ollama's grammar stays as it is."""
    try:
        return parse(model).full
    except InvalidName:
        return model
