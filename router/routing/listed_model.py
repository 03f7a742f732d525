"""Models as lists show them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.router.balance.worker import Replica
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

    @property
    def routed_name(self) -> str:
        return self.name if self.virtual is None else self.virtual.base


def merge_defaults(base: Defaults, model: VirtualModel) -> Defaults:
    """Return the defaults of a virtual model, given its base's."""
    options = {**base.options, **model.options} if model.options else base.options
    return replace(base, options=options, system=model.system or base.system, messages=model.messages or base.messages)
