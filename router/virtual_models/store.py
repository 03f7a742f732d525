"""A router process's copy of the virtual models: pure state, merged by revision.

Requests read it and nothing else. It holds what was deleted as well, so that a registry which was emptied gets its
tombstones back, and so does not bring anything back to life.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from vllama_pool.workers.registry.virtual_model import VirtualModel, key_of

MOST_TOMBSTONES = 1024
"""Deleted names that are remembered; of more, the oldest are forgotten, here and in the registry."""


class ModelStore:
    """Virtual models by the key of their names, the latest known revision of each."""

    def __init__(self, most_tombstones: int = MOST_TOMBSTONES) -> None:
        self._most_tombstones = most_tombstones
        self._every: dict[str, VirtualModel] = {}
        self._live: dict[str, VirtualModel] = {}
        self.live: Mapping[str, VirtualModel] = MappingProxyType(self._live)
        """Those that were not deleted. Always up to date, and to be looked at only."""
        self.every: Mapping[str, VirtualModel] = MappingProxyType(self._every)
        """The tombstones too."""

    def __repr__(self) -> str:
        return f"<ModelStore {len(self._live)} models, {len(self._every) - len(self._live)} tombstones>"

    def take(self, model: VirtualModel, *, settled: bool = False) -> bool:
        """Take over a model if it is newer than the one known. True if it was taken.

        `settled`: it comes from the registry, which decides between two of one revision. There may be such after the
        registry was emptied.
        """
        key = key_of(model.name)
        known = self._every.get(key)
        if known is not None:
            if model.revision < known.revision:
                return False
            if model.revision == known.revision and (not settled or model == known):
                return False
        self._every[key] = model
        if model.deleted:
            self._live.pop(key, None)
        else:
            self._live[key] = model
        return True

    def forget_oldest(self) -> list[str]:
        """Forget all tombstones but so many. Returns the keys of the forgotten: the same in every process."""
        surplus = len(self._every) - len(self._live) - self._most_tombstones
        if surplus <= 0:
            return []
        tombstones = sorted((model.changed, key) for key, model in self._every.items() if model.deleted)
        oldest = [key for _, key in tombstones[:surplus]]
        for key in oldest:
            del self._every[key]
        return oldest
