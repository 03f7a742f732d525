"""The file that keeps the virtual models of an embedded registry over a restart: Valkey itself keeps nothing on disk.

All processes that share a state directory share the file. Whoever writes holds its lock, reads what is there, and
replaces it by the latest revisions of both, so that nobody's models get lost. It can be read whatever happens to a
writer: it is replaced as a whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from vllama_pool.router.virtual_models.store import ModelStore
from vllama_pool.workers.registry.virtual_model import VirtualModel, key_of

MAX_BYTES = 64 << 20
"""A larger file is not one of ours."""
LOCK_PATIENCE = 1.0
"""Seconds to wait for other processes' writing, which takes milliseconds."""

_log = logging.getLogger(__name__)


class _Content(msgspec.Struct):
    models: list[msgspec.Raw]
    v: int = 1


class SaveFile:
    """Blocking: to be used from a thread, or at the start. Nothing that goes wrong here raises: it is logged, for
    models that cannot be kept on disk are no reason to serve none."""

    def __init__(self, folder: Path, fleet: str) -> None:
        """`folder` is private to this user; fleets may share it."""
        self.path = folder / f"models-{fleet}.json"

    def load(self) -> list[VirtualModel]:
        """What the file holds, tombstones too; nothing if there is none."""
        try:
            return self._read()
        except FileNotFoundError:
            return []
        except (OSError, ValueError, RecursionError) as error:
            _log.warning("the virtual models in %s cannot be read and are left out: %s", self.path, error)
            return []

    def save(self, models: Iterable[VirtualModel]) -> bool:
        """Keep these, beside what other processes have put there. False if that was not possible."""
        try:
            with self._locked():
                self._merge(models)
        except OSError as error:
            _log.error(
                "virtual models cannot be kept in %s and will be lost when all of vLLama stops: %s", self.path, error
            )
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
            store.take(model)
        changed = [model for model in models if store.take(model, settled=True)]
        store.forget_oldest()
        if damaged:
            aside = self.path.with_suffix(".damaged")
            _log.warning("%s is damaged and is put aside as %s", self.path, aside)
            self.path.replace(aside)
        if changed or damaged:
            self._replace(store.every.values())

    def _read(self) -> list[VirtualModel]:
        """Raises OSError; ValueError for a file that is not ours, or torn."""
        with os.fdopen(os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
                raise ValueError("it is, or may be, somebody else's")
            if status.st_size > MAX_BYTES:
                raise ValueError(f"it has {status.st_size} bytes")
            content = msgspec.json.decode(file.read(MAX_BYTES + 1), type=_Content)
        return [model for raw in content.models if (model := self._model(raw)) is not None]

    def _model(self, raw: msgspec.Raw) -> VirtualModel | None:
        try:
            model = msgspec.json.decode(raw, type=VirtualModel)
        except msgspec.DecodeError as error:
            _log.warning("a virtual model in %s cannot be read and is left out: %s", self.path, error)
            return None
        return model if key_of(model.name) and (model.deleted or model.base) else None

    def _replace(self, models: Iterable[VirtualModel]) -> None:
        data = msgspec.json.encode({"models": list(models), "v": 1})
        fresh = self.path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(fresh, flags, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Raises TimeoutError where somebody does not give the lock back."""
        deadline = time.monotonic() + LOCK_PATIENCE
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self.path.with_suffix(".lock"), flags, 0o600), "rb") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise TimeoutError("another process holds its lock") from None
                    time.sleep(0.01)
            yield
