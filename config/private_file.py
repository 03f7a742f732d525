"""Files that only this user may write: read with checks, replaced atomically. Blocking."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_private(path: Path, max_bytes: int) -> bytes:
    """Raises OSError, and ValueError for a file that is too large or may be another user's."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise ValueError("other users can write to it, or it is not a regular file of this user")
        if status.st_size > max_bytes:
            raise ValueError(f"it has {status.st_size} bytes, more than {max_bytes}")
        return file.read(max_bytes + 1)


def replace_private(path: Path, fresh: Path, data: bytes) -> None:
    """Write `fresh`, which must not exist, and rename it to `path`, so that no reader sees a part. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(fresh, flags, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
