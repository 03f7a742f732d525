"""A child's lifeline: it is signalled when the process that started it dies, however that happens.

Linux's PR_SET_PDEATHSIG does this without the parent's help, so it also holds for a parent that is killed
with SIGKILL. It has three edges that callers must know:

- The signal comes when the *thread* that forked ends. Start children from the main thread.
- It may come several times: once for each thread of the parent that ends before the last one does.
- It reaches the child alone, not the child's own children. A child that has some must pass the lifeline on,
  or be the leader of a process group that its owner kills.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1

ORPHANED = signal.SIGUSR1
"""What an agent gets when its supervisor dies: it drains and stops. No signal that anybody sends by hand, for a
second one of those means "now"."""


def die_with_parent(sig: signal.Signals = signal.SIGTERM) -> Callable[[], None]:
    """A `preexec_fn` after which the child gets `sig` as soon as this process dies.

    Call it in the parent, right before the fork: it notes who the parent is, so that a parent which dies
    between the fork and the prctl is noticed too (the child then ends before it becomes the new program).
    The setting survives exec. Elsewhere than on Linux the function does nothing.
    """
    if sys.platform != "linux":
        return _nothing
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up here: no imports and no locks after the fork
    parent = os.getpid()

    def tie() -> None:
        if prctl(PR_SET_PDEATHSIG, int(sig), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != parent:
            os._exit(1)

    return tie


def signal_name(number: int) -> str:
    """SIGKILL for 9: what people know signals by."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _nothing() -> None:
    pass
