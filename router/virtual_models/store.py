"""A router process's copy of the virtual models and tombstones, merged by revision. Requests read only this."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from vllama_pool.workers.registry.virtual_model import VirtualModel, key_of

MAX_TOMBSTONES = 1024
"""The oldest beyond it are dropped, here and in the registry."""


class ModelStore:
    """The latest known revision of each virtual model, by key."""

    def __init__(self, max_tombstones: int = MAX_TOMBSTONES) -> None:
        self._max_tombstones = max_tombstones
        self._all: dict[str, VirtualModel] = {}
        self._live: dict[str, VirtualModel] = {}
        self.live: Mapping[str, VirtualModel] = MappingProxyType(self._live)
        """Without tombstones."""
        self.all: Mapping[str, VirtualModel] = MappingProxyType(self._all)
        """With tombstones."""

    def __repr__(self) -> str:
        return f"<ModelStore {len(self._live)} models, {len(self._all) - len(self._live)} tombstones>"

    def merge(self, model: VirtualModel, *, from_registry: bool = False) -> bool:
        """Return True if the model was newer, and stored. Of equal revisions the one `from_registry` wins."""
        key = key_of(model.name)
        known = self._all.get(key)
        if known is not None:
            if model.revision < known.revision:
                return False
            if model.revision == known.revision and (not from_registry or model == known):
                return False
        self._all[key] = model
        if model.deleted:
            self._live.pop(key, None)
        else:
            self._live[key] = model
        return True

    def drop_oldest_tombstones(self) -> list[str]:
        """Return the dropped keys, which are the same in every process."""
        surplus = len(self._all) - len(self._live) - self._max_tombstones
        if surplus <= 0:
            return []
        tombstones = sorted((model.changed, key) for key, model in self._all.items() if model.deleted)
        oldest = [key for _, key in tombstones[:surplus]]
        for key in oldest:
            del self._all[key]
        return oldest
