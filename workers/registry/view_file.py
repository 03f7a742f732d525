"""The last good view of the registry on disk, for a router that starts while the registry is away.

Records and drains are kept as the registry had them, signatures included, and are checked again when they are read.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from vllama_pool.config.private_file import read_private, replace_private
from vllama_pool.config.settings import RegistrySettings
from vllama_pool.workers.registry import embedded
from vllama_pool.workers.registry.keys import check_worker_id
from vllama_pool.workers.registry.record import WorkerState

MAX_BYTES = 64 << 20
"""Larger views are not written, and larger files are not ours."""
SAVE_EVERY = 3.0
"""Seconds between two looks for a changed view."""

_log = logging.getLogger(__name__)


class SavedWorker(msgspec.Struct, frozen=True):
    envelope: bytes
    """Of its record."""
    state: WorkerState = WorkerState.READY


class View(msgspec.Struct, frozen=True):
    workers: dict[str, SavedWorker] = {}
    """By id."""
    wants: dict[str, bytes] = {}
    """Id -> entry of what operators ask of it."""
    saved: float = 0.0
    """Unix seconds, for display only."""
    run: str = ""
    """Id of the `vllama serve` that saved it."""
    v: int = 1


class ViewFile:
    """Blocking: call it from a thread. Logs errors instead of raising, the same one once."""

    def __init__(self, folder: Path, fleet: str, *, clock: Callable[[], float] = time.time) -> None:
        """`folder` must be private to this user."""
        self.path = folder / f"workers-{fleet}.json"
        self._clock = clock
        self._problem = ""

    def __repr__(self) -> str:
        return f"<ViewFile {self.path}>"

    def load(self) -> View | None:
        """Return None without a usable file or without workers."""
        try:
            view = self._read()
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            _log.warning("the saved workers in %s are ignored, the file cannot be read: %s", self.path, error)
            return None
        return view if view.workers else None

    def save(self, workers: Mapping[str, SavedWorker], wants: Mapping[str, bytes], run: str = "") -> bool:
        """Replace the file. Return False if that failed; the old file stays."""
        data = msgspec.json.encode(View(dict(workers), dict(wants), self._clock(), run))
        try:
            if len(data) > MAX_BYTES:
                raise ValueError(f"{len(data)} bytes are more than {MAX_BYTES}")
            self._replace(data)
        except (OSError, ValueError) as error:
            if str(error) != self._problem:
                self._problem = str(error)
                _log.warning("a start without the registry will not know its workers, %s: %s", self.path, error)
            return False
        self._problem = ""
        return True

    def _read(self) -> View:
        """Raises OSError, and ValueError for a file that is damaged or may be another user's."""
        view = msgspec.json.decode(read_private(self.path, MAX_BYTES), type=View)
        for worker_id in view.workers:
            check_worker_id(worker_id)
        return view

    def _replace(self, data: bytes) -> None:
        """Another `vllama serve` of this machine may replace it too: each writes its own new file."""
        fresh = self.path.with_suffix(f".{os.getpid()}.new")
        fresh.unlink(missing_ok=True)
        try:
            replace_private(self.path, fresh, data)
        except OSError:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise


def view_file(settings: RegistrySettings) -> ViewFile | None:
    """Return None for the embedded registry, and if the state directory cannot be private."""
    if settings.redis_url is None:
        return None
    try:
        return ViewFile(embedded.folder(settings.state_dir), settings.fleet)
    except embedded.EmbeddedFailed as error:
        _log.warning("a start without the registry will not know its workers: %s", error)
        return None
