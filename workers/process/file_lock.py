"""Exclusive locks between processes, as flock on a file. The kernel releases them when their process ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

RETRY_INTERVAL = 0.01
"""Seconds."""


class FileLock:
    """A lock held until `release` or the end of the process."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.holder_was_killed = bool(file.read(1))
        """True if the last holder was killed before it released the lock."""
        file.truncate(0)
        file.seek(0)
        file.write(str(os.getpid()).encode())

    def release(self) -> None:
        """Idempotent."""
        if not self._file.closed:
            self._file.truncate(0)
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def lock_file(path: Path, timeout: float = 0.0) -> FileLock | None:
    """Lock a file, created with mode 0600 in an existing folder. Blocks up to `timeout` seconds.

    Returns None if another holder keeps the lock. Raises OSError.
    """
    deadline = time.monotonic() + timeout
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)
    try:
        while not _try_lock(file):
            if time.monotonic() >= deadline:
                file.close()
                return None
            time.sleep(RETRY_INTERVAL)
    except OSError:
        file.close()
        raise
    return FileLock(file)


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
