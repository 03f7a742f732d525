"""Free ports for programs that take a port number, such as `vllama worker --port`."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

FIRST, LAST = 20_000, 32_000
"""Below the kernel's ephemeral ports, so that no connection uses one in between."""


def free_ports(count: int = 1) -> int:
    """Return the first of `count` adjacent free ports. A lock file per port reserves them until this process ends."""
    folder = Path(tempfile.gettempdir()) / f"vllama-test-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for _ in range(1000):
        first = random.randrange(FIRST, LAST - count)
        if all(_reserve(folder, port) for port in range(first, first + count)):
            return first
    raise AssertionError("no free ports")


def _reserve(folder: Path, port: int) -> bool:
    lock = os.open(folder / str(port), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        os.close(lock)
        return False
    return True
