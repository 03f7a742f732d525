"""Errors for unknown names, with each endpoint's text (R038, R147-R149)."""

from __future__ import annotations

from vllama_pool.config.names import InvalidName, is_cloud, parse
from vllama_pool.router.errors import BadRequest, ClientError, Forbidden, ModelNotFound

NO_CLOUD = "ollama cloud is disabled: remote model is unavailable"
NO_CLOUD_DETAILS = "ollama cloud is disabled: remote model details are unavailable"


def unknown_model(name: str, not_found: str, *, cloud: str = NO_CLOUD) -> ClientError:
    """`not_found`: the endpoint's text. Not for names in the pool, which need not follow Ollama's grammar."""
    try:
        parse(name)
    except InvalidName as error:
        return BadRequest(error.text)
    if is_cloud(name):
        return Forbidden(cloud)
    return ModelNotFound(not_found)


def generation_text(model: str) -> str:
    return f"model '{model}' not found"


def embedding_text(model: str) -> str:
    return f'model "{model}" not found, try pulling it first'


def show_text(requested: str) -> str:
    """With the normalised name (R148)."""
    try:
        name = parse(requested).short
    except InvalidName:
        name = requested
    return f"model '{name}' not found"
