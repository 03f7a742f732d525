"""Models as lists show them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.router.balance.worker import Replica
from vllama_pool.workers.registry.record import ModelInfo
from vllama_pool.workers.registry.virtual_model import VirtualModel


@dataclass(frozen=True, slots=True)
class ListedModel:
    name: str
    """Ollama's short form with its tag; unchanged if it has none."""
    replicas: tuple[Replica, ...]
    """In any state; empty for a configured model that is not served."""
    defaults: Defaults = NO_DEFAULTS
    virtual: VirtualModel | None = None
    """Set for a virtual model; the replicas are then its base's."""
    assumed: ModelInfo | None = None
    """Of a model that is listed without a replica: its latest description, or what it may be."""

    @property
    def infos(self) -> tuple[ModelInfo, ...]:
        """Descriptions by the replicas, or the assumed one. Empty for a model that lists leave out."""
        if self.replicas:
            return tuple(replica.model for replica in self.replicas)
        return (self.assumed,) if self.assumed is not None else ()

    @property
    def routed_name(self) -> str:
        return self.name if self.virtual is None else self.virtual.base


def merge_defaults(base: Defaults, model: VirtualModel) -> Defaults:
    """Return the defaults of a virtual model, given its base's."""
    options = {**base.options, **model.options} if model.options else base.options
    return replace(base, options=options, system=model.system or base.system, messages=model.messages or base.messages)
