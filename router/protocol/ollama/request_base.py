"""Parts that Ollama's requests share."""

from __future__ import annotations

import msgspec

from vllama_pool.router.errors import BadRequest


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class ModelRequest(Body, frozen=True):
    """A request that names its model in `model`, or in `name`, the older spelling.

    The stock CLI sends an empty `model` and the name in `name`.
    """

    model: str = ""
    name: str = ""

    @property
    def requested(self) -> str:
        return self.model or self.name


def require_model(name: str) -> None:
    """Raises BadRequest for an empty name (R146)."""
    if not name.strip():
        raise BadRequest("model is required")
