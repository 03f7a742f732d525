"""API keys whose secrets tests know, and their grants."""

from __future__ import annotations

from collections.abc import Iterable

from vllama_pool.config.api_keys import ApiKey, digest
from vllama_pool.router.admission.grant import Grant
from vllama_pool.router.routing.rights import NameList, Rights


def key(name: str) -> ApiKey:
    """Return the key with the secret "NAMEs-key"."""
    return ApiKey(name, digest(f"{name}s-key"))


def grants(keys: Iterable[ApiKey]) -> dict[bytes, Grant]:
    """Return grants of all models, by digest."""
    return {key.digest: Grant(key.name) for key in keys}


def rights(*models: str) -> Rights:
    """Return rights to served models."""
    return Rights([NameList(models)], lambda name: ())
