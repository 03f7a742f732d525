"""The terminal of `vllama serve`, whose end is a stop signal."""

from __future__ import annotations

import os
import select
from collections.abc import Callable


def hang_up_check() -> Callable[[], bool]:
    """Return a function that tells whether the terminal of this process is gone: its SIGHUP then means to stop.

    Call this once, at the start. Without a terminal, a SIGHUP comes from an operator.
    """
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return lambda: False
    poll = select.poll()
    poll.register(terminal, 0)  # POLLHUP and POLLERR are always reported
    return lambda: bool(poll.poll(0))
