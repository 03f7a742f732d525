"""What is said of a name that nobody serves (R038, R147-R149)."""

from __future__ import annotations

from vllama_pool.config.names import InvalidName, is_cloud, parse
from vllama_pool.router.errors import BadRequest, ClientError, Forbidden, ModelNotFound

NO_CLOUD = "ollama cloud is disabled: remote model is unavailable"
NO_CLOUD_DETAILS = "ollama cloud is disabled: remote model details are unavailable"


def unknown_model(name: str, not_found: str, *, cloud: str = NO_CLOUD) -> ClientError:
    """The error for a name that is not in the pool. To be asked only then: vLLM serves names that Ollama's
    grammar does not know. `not_found` is the endpoint's text for it."""
    try:
        parse(name)
    except InvalidName as error:
        return BadRequest(error.text)
    if is_cloud(name):
        return Forbidden(cloud)
    return ModelNotFound(not_found)
