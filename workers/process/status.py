"""What a child process tells the supervisor that started it: one JSON line for each change of state.

It goes through a pipe of its own, so that neither logs nor a registry that is away can get in between. A
process that was started by hand has no such pipe; telling is then a no-op.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

STATUS_FD = "VLLAMA_STATUS_FD"
"""The variable that names the pipe's descriptor."""


class Status(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line."""

    state: str
    """A `WorkerState`; a router process says "ready" alone."""
    note: str = ""
    """What is going on, in a few words: "loading weights", "CUDA out of memory"."""
    models: tuple[str, ...] = ()
    """The names that are served, once that is known."""


def decode(line: bytes) -> Status | None:
    """One line, or None if it is not one of ours."""
    try:
        return msgspec.json.decode(line, type=Status)
    except msgspec.DecodeError:
        return None


class StatusPipe:
    """The child's end. Telling never fails: a supervisor that is gone is the lifeline's business."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._last: Status | None = None
        if fd is not None:
            os.set_inheritable(fd, False)  # not for the child's own children
            os.set_blocking(fd, False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> StatusPipe:
        value = environment.get(STATUS_FD, "")
        return cls(int(value) if value.isdigit() else None)

    @property
    def connected(self) -> bool:
        """Whether a supervisor listens."""
        return self._fd is not None

    def tell(self, status: Status) -> None:
        """Send a status, unless it is the one that was sent last."""
        if self._fd is None or status == self._last:
            return
        self._last = status
        try:
            os.write(self._fd, msgspec.json.encode(status) + b"\n")
        except (BlockingIOError, BrokenPipeError):
            self._last = None
