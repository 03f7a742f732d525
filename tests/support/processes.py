"""Processes of the operating system, which may end at any moment."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import psutil

_KILL_AT_END_OF_INPUT = "import os, sys; sys.stdin.read(); os.killpg(int(sys.argv[1]), 9)"


class GroupGuard:
    """Kills a process group when this process ends in any way, even by SIGKILL. `release` ends that."""

    def __init__(self, group_id: int) -> None:
        command = [sys.executable, "-I", "-S", "-c", _KILL_AT_END_OF_INPUT, str(group_id)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def release(self) -> None:
        """Idempotent."""
        self._process.kill()
        self._process.communicate()


def is_alive(process: psutil.Process) -> bool:
    """Return True if this process still runs and is not a zombie."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def tree(process: psutil.Process) -> list[psutil.Process]:
    """Return its descendants; nothing if it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def words_of(process: psutil.Process) -> list[str]:
    """Return its command line; nothing if it has ended."""
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def runs(process: psutil.Process, word: str) -> bool:
    """Return True if this is part of its name or command line, and it has not ended."""
    with contextlib.suppress(psutil.Error):
        return word in process.name() or any(word in part for part in process.cmdline())
    return False


def process_group(group_id: int) -> list[psutil.Process]:
    """Return the living processes of a group."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group_id and is_alive(process):
                found.append(process)
    return found
