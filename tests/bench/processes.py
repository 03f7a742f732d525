"""CPU time, memory and placement of processes, read from the kernel."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROUTER_CORE, RIG_CORE = 0, 1
PRIORITY = -20
"""Needs root; without it, a process keeps the present priority."""
BUSY_FIELDS = (0, 1, 2, 5, 6, 7)
"""Of the line "cpu" in /proc/stat: user, nice, system, irq, softirq, steal."""


def placed(core: int | None) -> Callable[[], None]:
    """Return a function that puts a new process ahead of other programs, and on a core, before its program starts."""

    def place() -> None:
        os.setsid()
        if core is not None:
            os.sched_setaffinity(0, {core})
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
            # The kernel shares a core among sessions first: see sched(7), autogroup.
            Path("/proc/self/autogroup").write_text(str(PRIORITY))

    return place


def put_ahead(pids: Iterable[int]) -> None:
    """Give running processes, with their threads and sessions, the priority of `placed`."""
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                os.setpriority(os.PRIO_PROCESS, int(task.name), PRIORITY)
            Path(f"/proc/{pid}/autogroup").write_text(str(PRIORITY))


def start(
    command: Iterable[str | Path],
    core: int | None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    stderr = subprocess.STDOUT if not isinstance(stdout, int) else None
    return subprocess.Popen(
        list(command),
        env=env,
        cwd=cwd,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        preexec_fn=placed(core),  # noqa: PLW1509  it takes no locks
    )


def stop(process: subprocess.Popen[bytes], patience: float = 5.0) -> None:
    """End a process and what it started."""
    family = descendants(process.pid)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    for pid in (process.pid, *family):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def descendants(pid: int) -> list[int]:
    """Return the living processes below one, nearest first."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return [*found, *(below for child in found for below in descendants(child))]


def serving(pid: int) -> list[int]:
    """Return the processes of a router that serve: those below `pid` that run the same program, else `pid` itself."""
    return [child for child in descendants(pid) if _program(child) == _program(pid)] or [pid]


def _program(pid: int) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/exe")
    return ""


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time of processes with all their threads, ended ones included. Ended processes count as 0."""
    return sum(map(_cpu_seconds, pids))


def _cpu_seconds(pid: int) -> float:
    with contextlib.suppress(OSError):
        return time.clock_gettime((~pid << 3) | 2)  # the kernel's clock of a process: see clock_getcpuclockid(3)
    return 0.0


@dataclass(frozen=True, slots=True)
class Ticks:
    """CPU time of a process, in ticks of the kernel's clock."""

    user: int
    system: int

    def system_share(self, since: Ticks) -> float:
        """Return the part of the time since then that the kernel took."""
        user, system = self.user - since.user, self.system - since.system
        return system / max(1, user + system)


def ticks(pid: int) -> Ticks:
    """Raises OSError for an ended process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Ticks(int(fields[11]), int(fields[12]))


def memory_bytes(pids: Iterable[int]) -> int:
    return sum(map(_memory_bytes, pids))


def _memory_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def machine_busy() -> float:
    """Seconds in which the machine's cores worked, for anybody."""
    return busy_seconds(Path("/proc/stat").read_text(), os.sysconf("SC_CLK_TCK"))


def busy_seconds(stat: str, ticks: int) -> float:
    """Return the busy time of all cores from the text of /proc/stat."""
    fields = stat.split("\n", 1)[0].split()[1:]
    return sum(int(fields[index]) for index in BUSY_FIELDS if index < len(fields)) / ticks
