"""Ports for programs that are told which to use, as `vllama worker --port` is."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

FIRST, LAST = 20_000, 32_000
"""Below those that the kernel gives to whoever asks for any port, so that no connection takes one in between."""


def free_ports(count: int = 1) -> int:
    """The first of so many neighbouring ports, free now. Other test processes of this machine get others, for as long
    as this one runs: its locks, one file a port, end with it."""
    folder = Path(tempfile.gettempdir()) / f"vllama-test-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for _ in range(1000):
        first = random.randrange(FIRST, LAST - count)
        if all(_taken(folder, port) for port in range(first, first + count)):
            return first
    raise AssertionError("no free ports")


def _taken(folder: Path, port: int) -> bool:
    lock = os.open(folder / str(port), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        os.close(lock)
        return False
    return True
