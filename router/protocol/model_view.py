"""A model as the pool shows it: its replicas merged into one entry.

Where replicas differ, the entry is the safe one (the smallest context, only what all can do) and
`replicas_differ`, a field of ours, names the difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from vllama_pool.config.routing.defaults import NONE, Defaults
from vllama_pool.workers.registry.record import ModelInfo

CAPABILITIES = ("completion", "tools", "insert", "vision", "embedding", "thinking", "audio")
"""The closed set that clients know (R176), without `image`: it would make the CLI refuse the model."""


@dataclass(frozen=True)
class ModelView:
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


_COMPARED = {
    "digest": "digest",
    "size": "size",
    "quantization": "quantization_level",
    "parameter_count": "parameter_count",
    "context_length": "context_length",
}
