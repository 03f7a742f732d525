"""GET /api/tags, /api/ps and /api/version, answered from what workers said of their models.

Replicas of a model are merged into one entry. Where they differ, the entry is the safe one (the smallest
context, only what all can do) and `replicas_differ`, a field of ours, names the difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from vllama_pool.config.routing.defaults import NONE, Defaults
from vllama_pool.router.protocol.clock import rfc3339
from vllama_pool.router.protocol.json_lines import encode
from vllama_pool.workers.registry.record import ModelInfo

CAPABILITIES = ("completion", "tools", "insert", "vision", "embedding", "thinking", "audio")
"""The closed set that clients know (R176), without `image`: it would make the CLI refuse the model."""


@dataclass(frozen=True)
class CatalogueModel:
    """A model as it is listed: its name, and what each of its workers says of it."""

    name: str
    """Ollama's short form, with the tag."""
    replicas: tuple[ModelInfo, ...]
    """At least one."""
    defaults: Defaults = NONE
    """What the model brings: the routing file's options, or all that a virtual model was made with."""
    loaded: bool = True
    """Whether a worker can answer for it now; `ps` lists these."""
    engines: tuple[str, ...] = ()
    """vLLM's versions in these workers; "" where unknown."""
    base: str = ""
    """For a virtual model: the name of the model that it was made from, in Ollama's short form."""
    made_digest: str = ""
    """For a virtual model: 64 hex digits over the base's digest and what it adds, if anything."""
    made_at: float = 0.0
    """For a virtual model: Unix seconds of its latest change."""
    license: str = ""
    """For a virtual model: the licence text that it was made with, besides its base's."""

    @cached_property
    def merged(self) -> Merged:
        return merge(self.name, self.replicas, self.engines)

    @cached_property
    def digest(self) -> str:
        """Other options make another model: some clients list models of one digest once (R174)."""
        if self.made_digest or not self.defaults.options:
            return self.made_digest or self.merged.info.digest
        return _digest_of(self.merged.info.digest, sorted(self.defaults.options.items()))

    @property
    def modified(self) -> float:
        """Unix seconds."""
        return self.made_at if self.base else self.merged.info.modified_at


@dataclass(frozen=True, slots=True)
class Merged:
    """What may be said of all replicas at once."""

    info: ModelInfo
    """Of a replica that knows its files, with the merged digest, size, context and capabilities."""
    differ: dict[str, list[str | int]]
    """By field, the values that replicas disagree about, sorted; of templates the first digits of a digest. What a
    replica does not know is not counted."""


class Details(msgspec.Struct, frozen=True):
    parent_model: str
    format: str
    family: str
    families: list[str] | None
    parameter_size: str
    quantization_level: str
    context_length: int | msgspec.UnsetType = msgspec.UNSET
    embedding_length: int | msgspec.UnsetType = msgspec.UNSET


class Tag(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details
    capabilities: list[str] | None = None
    replicas_differ: dict[str, list[str | int]] | None = None


class Running(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    model: str
    size: int
    digest: str
    details: Details
    expires_at: str
    size_vram: int
    context_length: int
    replicas_differ: dict[str, list[str | int]] | None = None


def tags(models: Sequence[CatalogueModel]) -> bytes:
    """The most recently modified first (section 2.13)."""
    newest_first = sorted(models, key=lambda model: (-model.modified, model.name))
    return encode({"models": [_tag(model) for model in newest_first]})


def ps(models: Sequence[CatalogueModel], expires: Callable[[str], int]) -> bytes:
    """Loaded models, the longest remaining lifetime first. `expires` gives Unix nanoseconds for a name."""
    loaded = [(expires(model.name), model) for model in models if model.loaded]
    loaded.sort(key=lambda pair: (-pair[0], pair[1].name))
    return encode({"models": [_running(model, at) for at, model in loaded]})


def version(text: str) -> bytes:
    return encode({"version": text})


def _tag(model: CatalogueModel) -> Tag:
    merged = model.merged
    info = merged.info
    return Tag(
        name=model.name,
        model=model.name,
        modified_at=modified_at(model),
        size=info.size,
        digest=model.digest,
        details=details(model, lengths=True),
        capabilities=list(info.capabilities) or None,
        replicas_differ=merged.differ or None,
    )


def _running(model: CatalogueModel, expires: int) -> Running:
    merged = model.merged
    info = merged.info
    return Running(
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


def modified_at(model: CatalogueModel) -> str:
    """The epoch where it is unknown: every client parses it, and it is plainly no real date."""
    return rfc3339(round(model.modified * 1_000_000) * 1000)


def details(model: CatalogueModel, *, lengths: bool) -> Details:
    """`lengths`: with context and embedding length, which only tags has. Clients want strings, and some want them to
    hold something: what is not known says so, as Ollama does for a quantisation that it does not know.

    The stock CLI saves what it has changed as made from `parent_model`: for an adapter that would lose the adapter.
    """
    info = model.merged.info
    return Details(
        parent_model=model.base,
        format=info.format or UNKNOWN,
        family=info.architecture or UNKNOWN,
        families=[info.architecture] if info.architecture else None,
        parameter_size=human_number(info.parameter_count) if info.parameter_count else UNKNOWN,
        quantization_level=info.quantization or UNKNOWN,
        context_length=info.context_length if lengths and info.context_length else msgspec.UNSET,
        embedding_length=info.embedding_length if lengths and info.embedding_length else msgspec.UNSET,
    )


def human_number(number: int) -> str:
    """As Ollama shows a count of parameters: 8B, 7.6B, 494.03M, 361K, 512 (R175)."""
    for unit, suffix, places in ((10**12, "T", 1), (10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
        if number >= unit:
            value = number / unit
            return f"{value:.0f}{suffix}" if value.is_integer() else f"{value:.{places}f}{suffix}"
    return str(number)


def merge(name: str, replicas: Sequence[ModelInfo], engines: Sequence[str] = ()) -> Merged:
    """One entry for all replicas. The same for the same replicas in any order. `engines` are vLLM's versions."""
    ordered = sorted(replicas, key=_knowledge)
    best = ordered[0]
    contexts = [info.context_length for info in ordered if info.context_length]
    abilities = tuple(name for name in CAPABILITIES if all(name in info.capabilities for info in ordered))
    merged = msgspec.structs.replace(
        best,
        digest=_digest(name, best, abilities),
        size=best.size or 1,
        modified_at=max(info.modified_at for info in ordered),
        context_length=min(contexts, default=0),
        capabilities=abilities,
        has_template=all(info.has_template for info in ordered),
    )
    return Merged(merged, _differences(ordered, engines))


def _knowledge(info: ModelInfo) -> tuple[Any, ...]:
    """Those that have read the model's files come first, then by what may differ, so that no order of arrival shows."""
    return (
        not info.digest,
        not info.size,
        *(info.digest, info.name, info.size, info.quantization, info.parameter_count),
        *(info.context_length, info.capabilities, info.template),
    )


def _digest(name: str, info: ModelInfo, abilities: Sequence[str]) -> str:
    """Over the files' digest, or what else is known where a worker could not read them, and what the model can do:
    clients remember capabilities by digest for ever. Stable, and the same for the same replicas (R174)."""
    known = (info.digest,) if _is_digest(info.digest) else (name, *_identity(info))
    return _digest_of(known, abilities)


def _identity(info: ModelInfo) -> tuple[str | int, ...]:
    return (info.name, info.architecture, info.parameter_count, info.quantization)


def _is_digest(text: str) -> bool:
    return len(text) == 64 and all(char in "0123456789abcdef" for char in text)


def _digest_of(*known: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(known)).hexdigest()


def _differences(replicas: Sequence[ModelInfo], engines: Sequence[str]) -> dict[str, list[str | int]]:
    found: dict[str, set[Any]] = {
        shown: {getattr(info, attribute) for info in replicas} - {"", 0} for attribute, shown in _COMPARED.items()
    }
    found["engine_version"] = set(engines) - {""}
    result: dict[str, list[str | int]] = {shown: sorted(values) for shown, values in found.items() if len(values) > 1}
    if len(templates := {info.template for info in replicas} - {""}) > 1:
        result["template"] = sorted(_digest_of(text)[:12] for text in templates)
    if len({frozenset(info.capabilities) for info in replicas}) > 1:
        result["capabilities"] = sorted(set().union(*(info.capabilities for info in replicas)))
    return result


UNKNOWN = "unknown"
_COMPARED = {
    "digest": "digest",
    "size": "size",
    "quantization": "quantization_level",
    "parameter_count": "parameter_count",
    "context_length": "context_length",
}
