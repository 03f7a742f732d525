"""Runs one command, and clears up after it even when the agent that asked for it is killed.

vLLM is a small tree of processes. When the agent dies by SIGKILL nobody is left to end them, and when vLLM's
own server dies by SIGKILL its engine and workers stay behind with the GPU's memory. So between agent and vLLM
stands this process: nothing but the standard library, one loop, some 10 MB. It

- starts the command as the leader of a process group,
- adopts what that command's processes orphan (PR_SET_CHILD_SUBREAPER),
- kills the whole group when the leader has ended, when it is told to, or when its owner is gone,
- tells the owner how it ended.

Owner and guardian talk lines over a socket pair. To the guardian: `stop SECONDS` (SIGTERM to the leader, and
SIGKILL to all that long afterwards), `kill`; end of file means that the owner is gone. From it: `pid N` (the
leader, and its process group), `failed TEXT` (it could not be started), `died CODE` (the leader has ended;
negative for a signal), `end CODE` (all are gone).

Started by file name with `python -I -S`, so it must import nothing of this project.
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
"""Seconds between SIGTERM and SIGKILL when the owner is gone."""
TRACKER_GRACE = 2.0
"""Seconds that multiprocessing's resource tracker gets: it unlinks the shared memory of the dead, hundreds of
megabytes, and ends by itself."""
SWEEP_TIMEOUT = 10.0
"""Seconds after which a process that cannot be killed (stuck in a driver) is given up."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class Guardian:
    """The loop. `run` returns when the command and all that it left are gone."""

    def __init__(self, owner: socket.socket, command: list[str]) -> None:
        self._owner = owner
        self._command = command
        self._leader = 0
        self._code: int | None = None
        self._deadline: float | None = None

    def run(self) -> None:
        wakeup, waker = socket.socketpair()
        for sock in (wakeup, waker, self._owner):
            sock.setblocking(False)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _noted)  # a handler, not SIG_IGN: that would be inherited by the command
        try:
            self._leader = self._start()
        except OSError as error:
            self._say(f"failed {self._command[0]}: {error.strerror}")
            return
        self._say(f"pid {self._leader}")
        with selectors.DefaultSelector() as selector:
            selector.register(wakeup, selectors.EVENT_READ, lambda: _drain(wakeup))
            selector.register(self._owner, selectors.EVENT_READ, lambda: self._listen(selector))
            self._watch(selector)
        if self._code is not None:
            self._say(f"died {self._code}")
        sweep(self._leader, adopted=True, reap=self._reap)
        self._say(f"end {-signal.SIGKILL if self._code is None else self._code}")

    def _start(self) -> int:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=_tied_to(os.getpid()),  # noqa: PLW1509 -- there are no threads here
        )
        process.returncode = 0  # reaped in this loop, so that orphans are too
        return process.pid

    def _watch(self, selector: selectors.BaseSelector) -> None:
        while True:
            self._reap()
            if self._code is not None:
                return
            left = None if self._deadline is None else self._deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            for key, _ in selector.select(left):
                key.data()

    def _listen(self, selector: selectors.BaseSelector) -> None:
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
        """End it within `grace` seconds; a later call may shorten that and never lengthens it."""
        deadline = time.monotonic() + grace
        if self._deadline is None and grace > 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader, signal.SIGTERM)
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)

    def _reap(self) -> None:
        """Collect the dead; notes the leader's exit code."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self._leader:
                    self._code = os.waitstatus_to_exitcode(status)

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):
            self._owner.send(line.encode() + b"\n")


def sweep(group: int, *, adopted: bool = False, reap: Callable[[], object] = lambda: None) -> None:
    """Kill every process of a group, with `adopted` also every child of this process; returns once all are gone.

    Resource trackers go last, and by themselves if they do so in time. `reap` is called again and again, to
    collect dead children. Gives up after SWEEP_TIMEOUT.
    """
    if group <= 1:
        raise ValueError(f"{group} is no process group of ours")
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
    """The living processes of a group, and the adopter's children if there is one."""
    if not os.path.exists("/proc/self/stat"):  # not Linux: no list to be had, so kill and be done
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


def _tied_to(parent: int) -> Callable[[], None]:
    """For the command: SIGTERM if the guardian itself is killed. The last resort of the last resort."""
    prctl = _prctl()

    def tie() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    return tie


def _prctl() -> Callable[..., int] | None:
    return ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def _noted(number: int, frame: object) -> None:
    """Signals only wake the loop: the owner decides what happens."""


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
