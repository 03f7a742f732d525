"""A model as clients see it: its replicas merged into one entry.

Where they differ, the entry has the safe value (smallest context, common capabilities) and `replicas_differ`.
"""

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
"""Capabilities that clients know (R176), without `image`, for which the CLI refuses the model."""


@dataclass(frozen=True)
class ModelView:
    name: str
    """Ollama's short form, with the tag."""
    replicas: tuple[ModelInfo, ...]
    """At least one."""
    defaults: Defaults = NO_DEFAULTS
    """From the routing file, or from the virtual model."""
    loaded: bool = True
    """True if a worker can answer for it now; `ps` lists these."""
    engines: tuple[str, ...] = ()
    """vLLM versions of the workers; "" if unknown."""
    base: str = ""
    """A virtual model's base, by its short name."""
    made_digest: str = ""
    """Of a virtual model that differs from its base: 64 hex digits."""
    made_at: float = 0.0
    """A virtual model's latest change, in Unix seconds."""
    license: str = ""
    """A virtual model's licence text, added to its base's."""

    @cached_property
    def merged(self) -> Merged:
        return merge(self.name, self.replicas, self.engines)

    @cached_property
    def digest(self) -> str:
        """Covers the options, since some clients list models with equal digests once (R174)."""
        if self.made_digest or not self.defaults.options:
            return self.made_digest or self.merged.info.digest
        return _digest_of(self.merged.info.digest, sorted(self.defaults.options.items()))

    @property
    def modified(self) -> float:
        """Unix seconds."""
        return self.made_at if self.base else self.merged.info.modified_at


@dataclass(frozen=True, slots=True)
class Merged:
    info: ModelInfo
    """From the best informed replica, with merged fields."""
    differ: dict[str, list[str | int]]
    """By field, the different known values, sorted; templates by digest."""


def human_number(number: int) -> str:
    """A parameter count in Ollama's format: 8B, 7.6B, 494.03M, 361K, 512 (R175)."""
    for unit, suffix, places in ((10**12, "T", 1), (10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
        if number >= unit:
            value = number / unit
            return f"{value:.0f}{suffix}" if value.is_integer() else f"{value:.{places}f}{suffix}"
    return str(number)


def merge(name: str, replicas: Sequence[ModelInfo], engines: Sequence[str] = ()) -> Merged:
    ordered = sorted(replicas, key=_best_informed)
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


def _best_informed(info: ModelInfo) -> tuple[Any, ...]:
    """Sort key: replicas that have read the model's files come first."""
    return (
        not info.digest,
        not info.size,
        *(info.digest, info.name, info.size, info.quantization, info.parameter_count),
        *(info.context_length, info.capabilities, info.template),
    )


def _digest(name: str, info: ModelInfo, abilities: Sequence[str]) -> str:
    """Covers the capabilities, since some clients cache them by digest for ever (R174).

    Without a digest of the files, the model's known properties stand in for it.
    """
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
    if len({frozenset(info.capabilities) for info in replicas}) > 1:
        result["capabilities"] = sorted(set().union(*(info.capabilities for info in replicas)))
    return result


_COMPARED = {
    "digest": "digest",
    "size": "size",
    "quantization": "quantization_level",
    "parameter_count": "parameter_count",
    "context_length": "context_length",
}
