"""Signal a child when its parent process dies, even by SIGKILL.

Limitations of Linux's PR_SET_PDEATHSIG:

- The signal is sent when the *thread* that forked ends. Start children from the main thread.
- It may arrive several times: once for each thread of the parent that ends before the last one.
- The child's own children do not get it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1

ORPHANED = signal.SIGUSR1
"""Tells an agent that its supervisor has died. Not SIGTERM, because a second one means "stop now"."""


def die_with_parent(sig: signal.Signals = signal.SIGTERM) -> Callable[[], None]:
    """Return a `preexec_fn` that makes the child get `sig` when this process dies. A no-op outside Linux.

    Call it in the parent right before the fork: a child whose parent dies between fork and prctl exits before exec.
    """
    if sys.platform != "linux":
        return _nothing
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # before the fork: no imports and no locks after it
    parent = os.getpid()

    def tie() -> None:
        if prctl(PR_SET_PDEATHSIG, int(sig), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != parent:
            os._exit(1)

    return tie


def signal_name(number: int) -> str:
    """Return a name such as SIGKILL."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _nothing() -> None:
    pass
