"""Virtual models on disk, for the embedded registry, which has no persistence.

Processes share the file: a writer locks it, merges by revision, and replaces it atomically.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from vllama_pool.config.private_file import read_private, replace_private
from vllama_pool.router.virtual_models.store import ModelStore
from vllama_pool.workers.process.file_lock import lock_file
from vllama_pool.workers.registry.virtual_model import VirtualModel, key_of

MAX_BYTES = 64 << 20
"""Larger files are not ours."""
LOCK_TIMEOUT = 1.0
"""Seconds."""

_log = logging.getLogger(__name__)


class _Content(msgspec.Struct):
    models: list[msgspec.Raw]
    v: int = 1


class SaveFile:
    """Blocking: call it from a thread. Logs errors instead of raising."""

    def __init__(self, folder: Path, fleet: str, *, lock_timeout: float = LOCK_TIMEOUT) -> None:
        """`folder` must be private to this user."""
        self.path = folder / f"models-{fleet}.json"
        self._lock_timeout = lock_timeout

    def load(self) -> list[VirtualModel]:
        """Return the models, with tombstones; [] without a usable file."""
        try:
            return self._read()
        except FileNotFoundError:
            return []
        except (OSError, ValueError, RecursionError) as error:
            _log.warning("virtual models in %s are ignored, the file cannot be read: %s", self.path, error)
            return []

    def save(self, models: Iterable[VirtualModel]) -> bool:
        """Merge into the file. Return False if that failed."""
        try:
            lock = lock_file(self.path.with_suffix(".lock"), self._lock_timeout)
            if lock is None:
                raise TimeoutError("another process holds its lock")
            with lock:
                self._merge(models)
        except OSError as error:
            _log.error("virtual models will be lost when vLLama stops, %s cannot be written: %s", self.path, error)
            return False
        return True

    def _merge(self, models: Iterable[VirtualModel]) -> None:
        store = ModelStore()
        damaged = False
        try:
            before = self._read()
        except FileNotFoundError:
            before = []
        except (ValueError, RecursionError):
            before, damaged = [], True
        for model in before:
            store.merge(model)
        changed = [model for model in models if store.merge(model, from_registry=True)]
        store.drop_oldest_tombstones()
        if damaged:
            aside = self.path.with_suffix(".damaged")
            _log.warning("%s is damaged; it was moved to %s", self.path, aside)
            self.path.replace(aside)
        if changed or damaged:
            self._replace(store.all.values())

    def _read(self) -> list[VirtualModel]:
        """Raises OSError, and ValueError for a file that is damaged or may be another user's."""
        content = msgspec.json.decode(read_private(self.path, MAX_BYTES), type=_Content)
        return [model for raw in content.models if (model := self._model(raw)) is not None]

    def _model(self, raw: msgspec.Raw) -> VirtualModel | None:
        try:
            model = msgspec.json.decode(raw, type=VirtualModel)
        except msgspec.DecodeError as error:
            _log.warning("a virtual model in %s is ignored, it cannot be read: %s", self.path, error)
            return None
        return model if key_of(model.name) and (model.deleted or model.base) else None

    def _replace(self, models: Iterable[VirtualModel]) -> None:
        data = msgspec.json.encode({"models": list(models), "v": 1})
        fresh = self.path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        replace_private(self.path, fresh, data)
