"""File locks for a worker's id and port, which end with the process, and its generation number."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from vllama_pool.workers.agent.command_line import PORTS_TRIED, CannotStart, is_free
from vllama_pool.workers.process.file_lock import FileLock, lock_file

ORPHAN_EXIT_TIMEOUT = 10.0
"""Seconds within which the vLLM of a killed agent has exited."""


def lock_id(state_dir: Path, worker_id: str) -> FileLock:
    """Lock the id on this machine. Raises CannotStart."""
    lock = _lock(state_dir / "workers" / f"{_file_name(worker_id)}.lock")
    if lock is None:
        raise CannotStart(f"worker {worker_id} is already running here; give this one another --name")
    return lock


def lock_port(
    state_dir: Path,
    host: str,
    port: int,
    *,
    exact: bool,
    timeout: float = 0.0,
    free: Callable[[str, int], bool] = is_free,
) -> tuple[int, FileLock]:
    """Lock a port, because vLLM binds it only seconds later: this one, or the next free one unless `exact`.

    Blocks up to `timeout` seconds for the first port. Raises CannotStart.
    """
    deadline = time.monotonic() + timeout
    while not free(host, port) and time.monotonic() < deadline:
        time.sleep(0.1)
    for candidate in range(port, port + (1 if exact else PORTS_TRIED)):
        if candidate > 65535:
            break
        if free(host, candidate) and (lock := _lock(state_dir / "ports" / f"{candidate}.lock")) is not None:
            return candidate, lock
    if exact:
        raise CannotStart(f"port {port} on {host} is in use; stop what listens there, or choose another port")
    raise CannotStart(f"no port is free on {host} from {port} on; choose another one")


def next_generation(state_dir: Path, worker_id: str, now: Callable[[], float] = time.time) -> int:
    """Return a number above all earlier ones, based on the time in ms. Raises CannotStart."""
    path = state_dir / "workers" / f"{_file_name(worker_id)}.generation"
    try:
        before = int(path.read_text())
    except (OSError, ValueError):
        before = 0
    generation = max(int(now() * 1000), before + 1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(str(generation))
        fresh.replace(path)
    except OSError as error:
        raise _unusable(path, error) from error
    return generation


def log_file(state_dir: Path, worker_id: str) -> Path:
    return state_dir / "logs" / f"{_file_name(worker_id)}.log"


def _lock(path: Path) -> FileLock | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return lock_file(path)
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> CannotStart:
    return CannotStart(f"cannot write {path} ({error.strerror}); set VLLAMA_STATE_DIR to a folder of your own")


def _file_name(worker_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", worker_id)
