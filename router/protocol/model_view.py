"""A model as clients see it: its replicas merged into one entry with the safe values."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.workers.registry.record import ModelInfo

CAPABILITIES = ("completion", "tools", "insert", "vision", "embedding", "thinking", "audio")
"""Ollama's capabilities (R176) except `image`, for which the CLI refuses the model."""


@dataclass(frozen=True)
class ModelView:
    name: str
    """Short name with the tag."""
    replicas: tuple[ModelInfo, ...]
    """At least one."""
    defaults: Defaults = NO_DEFAULTS
    loaded: bool = True
    """True if a worker can serve it now. Only these are in `ps`."""
    engines: tuple[str, ...] = ()
    """vLLM versions; "" if unknown."""
    base: str = ""
    """Short name of a virtual model's base."""
    made_digest: str = ""
    """64 hex digits, for a virtual model that differs from its base."""
    made_at: float = 0.0
    """Unix seconds."""
    license: str = ""

    @cached_property
    def merged(self) -> Merged:
        context = self.defaults.context
        return merge(self.name, self.replicas, self.engines, context)

    @cached_property
    def digest(self) -> str:
        """Covers options and system text, because some clients hide models with equal digests (R174)."""
        options, system = self.defaults.options, self.defaults.system
        if self.made_digest or not (options or system):
            return self.made_digest or self.merged.info.digest
        return _digest_of(self.merged.info.digest, sorted(options.items()), *filter(None, [system]))

    @property
    def modified(self) -> float:
        return self.made_at if self.base else self.merged.info.modified_at


@dataclass(frozen=True, slots=True)
class Merged:
    info: ModelInfo
    """Merged fields over those of the best informed replica."""
    differ: dict[str, list[str | int]]
    """Differing values by field, sorted. Templates are shown as digests."""


def human_number(number: int) -> str:
    """Format as Ollama does: 8B, 7.6B, 494.03M, 361K, 512 (R175)."""
    for unit, suffix, places in ((10**12, "T", 1), (10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
        if number >= unit:
            value = number / unit
            return f"{value:.0f}{suffix}" if value.is_integer() else f"{value:.{places}f}{suffix}"
    return str(number)


def merge(name: str, replicas: Sequence[ModelInfo], engines: Sequence[str] = (), context: int | None = None) -> Merged:
    """`context`: the longest that requests get, in tokens."""
    ordered = sorted(replicas, key=_best_informed)
    best = ordered[0]
    contexts = [info.context_length for info in ordered if info.context_length]
    contexts += [context] if context is not None else []
    possible = [name for name in CAPABILITIES if all(_may_have(name, info) for info in ordered)]
    abilities = tuple(name for name in possible if any(name in info.capabilities for info in ordered))
    merged = msgspec.structs.replace(
        best,
        digest=_digest(name, best, abilities),
        size=best.size or 1,
        modified_at=max(info.modified_at for info in ordered),
        context_length=min(contexts, default=0),
        capabilities=abilities,
        undetected=tuple(name for name in possible if name not in abilities),
        has_template=all(info.has_template for info in ordered),
    )
    return Merged(merged, _differences(ordered, engines))


def _may_have(capability: str, info: ModelInfo) -> bool:
    """True unless it is known to be missing."""
    return capability in info.capabilities or capability in info.undetected


def _best_informed(info: ModelInfo) -> tuple[Any, ...]:
    """Sort key: replicas that know the model's files come first."""
    return (
        not info.digest,
        not info.size,
        *(info.digest, info.name, info.size, info.quantization, info.parameter_count),
        *(info.context_length, info.capabilities, info.undetected, info.template),
    )


def _digest(name: str, info: ModelInfo, abilities: Sequence[str]) -> str:
    """Covers the capabilities, because some clients cache them by digest (R174)."""
    known = (info.digest,) if _is_digest(info.digest) else (name, *_identity(info))
    return _digest_of(known, abilities)


def _identity(info: ModelInfo) -> tuple[str | int, ...]:
    return (info.name, info.architecture, info.parameter_count, info.quantization)


def _is_digest(text: str) -> bool:
    return len(text) == 64 and all(char in "0123456789abcdef" for char in text)


def _digest_of(*known: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(known)).hexdigest()


def _differences(replicas: Sequence[ModelInfo], engines: Sequence[str]) -> dict[str, list[str | int]]:
    by_field: dict[str, set[Any]] = {
        name: {getattr(info, attribute) for info in replicas} - {"", 0} for attribute, name in _COMPARED.items()
    }
    by_field["engine_version"] = set(engines) - {""}
    result: dict[str, list[str | int]] = {name: sorted(values) for name, values in by_field.items() if len(values) > 1}
    if len(templates := {info.template for info in replicas} - {""}) > 1:
        result["template"] = sorted(_digest_of(text)[:12] for text in templates)
    listed = set[str]().union(*(info.capabilities for info in replicas))
    if any(not _may_have(name, info) for name in listed for info in replicas):
        result["capabilities"] = sorted(listed)
    return result


_COMPARED = {
    "digest": "digest",
    "size": "size",
    "quantization": "quantization_level",
    "parameter_count": "parameter_count",
    "context_length": "context_length",
}
