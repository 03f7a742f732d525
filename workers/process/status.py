"""Status lines (JSON) from a child process to its supervisor, over a pipe of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

STATUS_FD = "VLLAMA_STATUS_FD"
"""Environment variable with the pipe's descriptor."""
RESTARTED = "VLLAMA_RESTARTED"
"""Environment variable of a process that replaces an earlier one."""


class ChildStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    state: str
    """A `WorkerState`; a router process sends only "ready"."""
    note: str = ""
    """Activity or error."""
    models: tuple[str, ...] = ()
    """Served names, once known."""
    generation: int = 0
    """The generation of a worker's record, once it is ready."""


def decode(line: bytes) -> ChildStatus | None:
    """Return None if the line is not a status."""
    try:
        return msgspec.json.decode(line, type=ChildStatus)
    except msgspec.DecodeError:
        return None


class StatusPipe:
    """The child's end. `send` ignores a missing, full or closed pipe."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._last: ChildStatus | None = None
        if fd is not None:
            os.set_inheritable(fd, False)  # keep the pipe from the child's own children
            os.set_blocking(fd, False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> StatusPipe:
        value = environment.get(STATUS_FD, "")
        return cls(int(value) if value.isdigit() else None)

    @property
    def connected(self) -> bool:
        return self._fd is not None

    def send(self, status: ChildStatus) -> None:
        """Send a status, unless it equals the last one."""
        if self._fd is None or status == self._last:
            return
        self._last = status
        try:
            os.write(self._fd, msgspec.json.encode(status) + b"\n")
        except (BlockingIOError, BrokenPipeError):
            self._last = None
