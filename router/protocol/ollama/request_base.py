"""Base classes of requests."""

from __future__ import annotations

import msgspec

from vllama_pool.router.errors import BadRequest


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


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
