"""Processes of the operating system, which may end at any moment."""

from __future__ import annotations

import contextlib
import os

import psutil


def is_alive(process: psutil.Process) -> bool:
    """Return True if this process still runs and is not a zombie."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def process_group(group_id: int) -> list[psutil.Process]:
    """Return the living processes of a group."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group_id and is_alive(process):
                found.append(process)
    return found
