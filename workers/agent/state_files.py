"""The agent's files in the state directory: locks of id and port, generation number, log."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from vllama_pool.workers.agent.command_line import PORTS_TRIED, CannotStart, is_free
from vllama_pool.workers.process.file_lock import FileLock, lock_file

ORPHAN_EXIT_TIMEOUT = 10.0
"""Seconds that the vLLM of a killed agent needs to exit."""


def lock_id(state_dir: Path, worker_id: str) -> FileLock:
    """Raises CannotStart if another agent on this machine has the id."""
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
    """Lock this port, or the next free one unless `exact`, until vLLM binds it seconds later.

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
    """Return the time in ms, or more to exceed all earlier numbers. Raises CannotStart."""
    path = _generation_file(state_dir, worker_id)
    try:
        previous = int(path.read_text())
    except (OSError, ValueError):
        previous = 0
    generation = max(int(now() * 1000), previous + 1)
    keep_generation(state_dir, worker_id, generation)
    return generation


def keep_generation(state_dir: Path, worker_id: str, generation: int) -> None:
    """Let later starts exceed this number. Raises CannotStart."""
    path = _generation_file(state_dir, worker_id)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(str(generation))
        temporary.replace(path)
    except OSError as error:
        raise _unusable(path, error) from error


def _generation_file(state_dir: Path, worker_id: str) -> Path:
    return state_dir / "workers" / f"{_file_name(worker_id)}.generation"


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
