"""Whether an engine died by itself. Pure.

SIGKILL, SIGTERM and the like come from outside, as far as anybody can know: from an operator, a container runtime or
the kernel. Only the kernel's kill for memory counts as the end of the engine itself, and only if the counter of the
control group shows it. An API server whose engine process was killed ends with an exit code, so it looks like a crash.
"""

from __future__ import annotations

import signal

from vllama_pool.workers.process.lifeline import signal_name
from vllama_pool.workers.process.server_process import ExitStatus
from vllama_pool.workers.registry.record import EngineExit

_FROM_OUTSIDE = frozenset(
    (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
)
_SHELL = 128
"""Programs that run another one, such as a shell, end with this and the number of the signal that ended it."""

ENGINE_DIED = "engine died"
"""The API server says that its engine is dead."""


def engine_exit(number: int, status: ExitStatus, *, out_of_memory: bool) -> EngineExit:
    """`number`: of this end. `out_of_memory`: the kernel has killed for memory since the start."""
    code = status.code
    if code is None:
        return EngineExit(number=number, cause=str(status))
    ended_by = -code if code < 0 else code - _SHELL
    if ended_by == signal.SIGKILL and out_of_memory:
        return EngineExit(number=number, crashed=True, cause="out of memory")
    if code == 0 or ended_by in _FROM_OUTSIDE:
        return EngineExit(number=number, cause=signal_name(ended_by) if ended_by > 0 else str(status))
    return EngineExit(number=number, crashed=True, cause=str(status))
