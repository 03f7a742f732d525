"""GET /api/tags, /api/ps and /api/version."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from vllama_pool.router.protocol.clock import rfc3339
from vllama_pool.router.protocol.json_lines import encode
from vllama_pool.router.protocol.model_view import ModelView, human_number

UNKNOWN = "unknown"
"""Some clients require non-empty strings."""


class ModelDetails(msgspec.Struct, frozen=True):
    parent_model: str
    format: str
    family: str
    families: list[str] | None
    parameter_size: str
    quantization_level: str
    context_length: int | msgspec.UnsetType = msgspec.UNSET
    embedding_length: int | msgspec.UnsetType = msgspec.UNSET


class TagsEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: ModelDetails
    capabilities: list[str] | None = None
    replicas_differ: dict[str, list[str | int]] | None = None


class PsEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    model: str
    size: int
    digest: str
    details: ModelDetails
    expires_at: str
    size_vram: int
    context_length: int
    replicas_differ: dict[str, list[str | int]] | None = None


def tags(models: Sequence[ModelView]) -> bytes:
    newest_first = sorted(models, key=lambda model: (-model.modified, model.name))
    return encode({"models": [_tag(model) for model in newest_first]})


def ps(models: Sequence[ModelView], expires: Callable[[str], int]) -> bytes:
    """Longest lifetime first. `expires` returns Unix nanoseconds for a name."""
    loaded = [(expires(model.name), model) for model in models if model.loaded]
    loaded.sort(key=lambda pair: (-pair[0], pair[1].name))
    return encode({"models": [_running(model, at) for at, model in loaded]})


def version(text: str) -> bytes:
    return encode({"version": text})


def _tag(model: ModelView) -> TagsEntry:
    merged = model.merged
    info = merged.info
    return TagsEntry(
        name=model.name,
        model=model.name,
        modified_at=modified_at(model),
        size=info.size,
        digest=model.digest,
        details=details(model, lengths=True),
        capabilities=list(info.capabilities) or None,
        replicas_differ=merged.differ or None,
    )


def _running(model: ModelView, expires: int) -> PsEntry:
    merged = model.merged
    info = merged.info
    return PsEntry(
        name=model.name,
        model=model.name,
        size=info.size,
        digest=model.digest,
        details=details(model, lengths=False),
        expires_at=rfc3339(expires),
        size_vram=info.size,
        context_length=info.context_length,
        replicas_differ=merged.differ or None,
    )


def modified_at(model: ModelView) -> str:
    """The epoch if unknown, because clients parse it."""
    return rfc3339(round(model.modified * 1_000_000) * 1000)


def details(model: ModelView, *, lengths: bool) -> ModelDetails:
    """`lengths`: include context and embedding length.

    A served adapter has no `parent_model`: the CLI would replace the adapter by it on saving.
    """
    info = model.merged.info
    return ModelDetails(
        parent_model=model.base,
        format=info.format or UNKNOWN,
        family=info.architecture or UNKNOWN,
        families=[info.architecture] if info.architecture else None,
        parameter_size=human_number(info.parameter_count) if info.parameter_count else UNKNOWN,
        quantization_level=info.quantization or UNKNOWN,
        context_length=info.context_length if lengths and info.context_length else msgspec.UNSET,
        embedding_length=info.embedding_length if lengths and info.embedding_length else msgspec.UNSET,
    )
