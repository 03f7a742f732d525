"""Base classes of requests."""

from __future__ import annotations

from typing import Annotated

import msgspec

from vllama_pool.router.errors import BadRequest

Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""Go's int."""


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Every field has Go's zero value or Ollama's default: Ollama requires none while it decodes."""


class ModelRequest(Body, frozen=True):
    """Names its model in `model`, or in the older `name`, which the stock CLI sends with an empty `model`."""

    model: str = ""
    name: str = ""

    @property
    def requested(self) -> str:
        return self.model or self.name


class RegistryRequest(ModelRequest, frozen=True):
    insecure: bool = False
    username: str = ""
    password: str = ""
    stream: bool = True


def require_model(name: str) -> None:
    """Raises BadRequest (R146)."""
    if not name.strip():
        raise BadRequest("model is required")
