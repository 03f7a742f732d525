"""Run one command, and kill all its processes when it ends or its owner dies.

Without it, a vLLM outlives an agent that dies by SIGKILL, and vLLM's engine outlives a killed API server and keeps the
GPU memory. The guardian starts the command as the leader of a process group and adopts the group's orphans
(PR_SET_CHILD_SUBREAPER). It needs about 10 MB.

Owner and guardian exchange lines over a socket pair:

- to the guardian: `stop SECONDS` (SIGTERM to the leader, SIGKILL to all after SECONDS), `kill`; end of file means that
  the owner is gone
- to the owner: `pid N` (leader and process group), `failed TEXT` (start failed), `died CODE` (the leader has ended;
  negative for a signal), `end CODE` (all processes are gone)

The owner starts this file by path with `python -I -S`, so it must import only the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

GRACE = 3.0
"""Seconds from SIGTERM to SIGKILL when the owner is gone."""
TRACKER_GRACE = 2.0
"""Seconds for multiprocessing's resource tracker to unlink shared memory and exit."""
SWEEP_TIMEOUT = 10.0
"""Seconds. A process stuck in a driver cannot be killed."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class Guardian:
    def __init__(self, owner: socket.socket, command: list[str]) -> None:
        self._owner = owner
        self._command = command
        self._leader = 0
        self._code: int | None = None
        self._deadline: float | None = None

    def run(self) -> None:
        """Return once all processes are gone."""
        wakeup, waker = socket.socketpair()
        for sock in (wakeup, waker, self._owner):
            sock.setblocking(False)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _ignore)  # not SIG_IGN, which the command would inherit
        try:
            self._leader = self._start()
        except OSError as error:
            self._send(f"failed {self._command[0]}: {error.strerror}")
            return
        self._send(f"pid {self._leader}")
        with selectors.DefaultSelector() as selector:
            selector.register(wakeup, selectors.EVENT_READ, lambda: _drain(wakeup))
            selector.register(self._owner, selectors.EVENT_READ, lambda: self._read_commands(selector))
            self._watch(selector)
        if self._code is not None:
            self._send(f"died {self._code}")
        sweep(self._leader, adopted=True, reap=self._reap)
        self._send(f"end {-signal.SIGKILL if self._code is None else self._code}")

    def _start(self) -> int:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=_sigterm_when_dead(os.getpid()),  # noqa: PLW1509 -- there are no threads here
        )
        process.returncode = 0  # _reap collects the leader and orphans alike
        return process.pid

    def _watch(self, selector: selectors.BaseSelector) -> None:
        while True:
            self._reap()
            if self._code is not None:
                return
            remaining = None if self._deadline is None else self._deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                return
            for key, _ in selector.select(remaining):
                key.data()

    def _read_commands(self, selector: selectors.BaseSelector) -> None:
        try:
            data = self._owner.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            selector.unregister(self._owner)
            self._stop(GRACE)
        for line in data.decode().splitlines():
            word, _, seconds = line.partition(" ")
            self._stop(float(seconds) if word == "stop" else 0.0)

    def _stop(self, grace: float) -> None:
        """A later call can only shorten the deadline."""
        deadline = time.monotonic() + grace
        if self._deadline is None and grace > 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader, signal.SIGTERM)
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self._leader:
                    self._code = os.waitstatus_to_exitcode(status)

    def _send(self, line: str) -> None:
        with contextlib.suppress(OSError):
            self._owner.send(line.encode() + b"\n")


def sweep(group: int, *, adopted: bool = False, reap: Callable[[], object] = lambda: None) -> None:
    """Kill a process group; with `adopted`, also this process's children. Return once all are gone.

    Resource trackers get TRACKER_GRACE. Each round calls `reap` to collect dead children.
    """
    if group <= 1:
        raise ValueError(f"{group} is not a process group of this guardian")
    start = time.monotonic()
    while True:
        reap()
        members = _members(group, os.getpid() if adopted else None)
        waited = time.monotonic() - start
        if not members or waited > SWEEP_TIMEOUT:
            return
        for pid in members:
            if waited > TRACKER_GRACE or not _is_tracker(pid):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _members(group: int, adopter: int | None) -> list[int]:
    if not os.path.exists("/proc/self/stat"):  # not Linux: processes cannot be listed
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        return []
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            stat = Path("/proc", name, "stat").read_text(errors="replace")
            state, parent, leader, *_ = stat.rpartition(")")[2].split()
            if state not in "ZX" and (int(leader) == group or (adopter is not None and int(parent) == adopter)):
                found.append(int(name))
    return found


def _is_tracker(pid: int) -> bool:
    try:
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _sigterm_when_dead(parent: int) -> Callable[[], None]:
    """Return a `preexec_fn`: the command gets SIGTERM if the guardian is killed."""
    prctl = _prctl()

    def tie() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    return tie


def _prctl() -> Callable[..., int] | None:
    return ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def _ignore(number: int, frame: object) -> None:
    """The signal only wakes the loop; the owner decides."""


def _drain(sock: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while sock.recv(4096):
            pass


def main() -> None:
    if prctl := _prctl():
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    Guardian(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:]).run()


if __name__ == "__main__":
    main()
