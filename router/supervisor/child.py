"""Child processes: start, and status events until they end.

A `Child` turns one process into events for its owner and decides nothing itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vllama_pool.workers.process.lifeline import ORPHANED, die_with_parent
from vllama_pool.workers.process.status import STATUS_FD, ChildStatus, decode

MAX_LINE = 65536


class ChildKind(enum.StrEnum):
    ROUTER = "router"
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """The command line and environment of a child."""

    kind: ChildKind
    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    """The whole environment. Secrets travel here, never in argv."""
    fds: tuple[int, ...] = ()
    """Descriptors that the child inherits under the same numbers."""


@dataclass(frozen=True, slots=True)
class StatusChanged:
    """A child has reported its status."""

    child: Child
    status: ChildStatus


@dataclass(frozen=True, slots=True)
class ChildExited:
    """A child has exited. `code` is its exit code, or minus the signal that killed it."""

    child: Child
    code: int


Post = Callable[[StatusChanged | ChildExited], None]
"""Receives events. Called in the event loop; must not block."""


class Child:
    """One process of a ChildSpec. A restart makes a new Child."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.status: ChildStatus | None = None
        """The last one it reported."""
        self.was_ready = False
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = self.status.state if self.status else "silent"
        return f"<Child {self.spec.name} pid={self.pid} {state}>"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self, post: Post) -> None:
        """Start the process and post events until it has exited. Call it from the main thread.

        The child leads its own process group: Ctrl-C in the terminal reaches only its owner, which stops children in
        order. Raises OSError if it cannot be started.
        """
        reading, writing = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.spec.argv,
                env={**self.spec.env, STATUS_FD: str(writing)},
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(*self.spec.fds, writing),
                process_group=0,
                preexec_fn=die_with_parent(ORPHANED if self.spec.kind is ChildKind.WORKER else signal.SIGTERM),
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._watch = asyncio.create_task(self._report(self._process, reading, post), name=f"watch {self.spec.name}")

    def signal(self, sig: signal.Signals) -> None:
        """Send a signal to the process. Does nothing if it has exited."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(sig)

    async def _report(self, process: asyncio.subprocess.Process, pipe: int, post: Post) -> None:
        listening = asyncio.create_task(self._listen(pipe, post))
        code = await process.wait()
        # The last status may still be in the pipe. Do not wait for a grandchild that keeps the pipe open.
        await asyncio.wait([listening], timeout=0.5)
        listening.cancel()
        await asyncio.wait([listening])
        post(ChildExited(self, code))

    async def _listen(self, pipe: int, post: Post) -> None:
        reader = asyncio.StreamReader(limit=MAX_LINE)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb", buffering=0)
        )
        try:
            while line := await reader.readline():
                status = decode(line)
                if status is not None:
                    self.status = status
                    self.was_ready = self.was_ready or status.state == "ready"
                    post(StatusChanged(self, status))
        except ValueError:
            return  # a line over the limit was not written by vLLama
        finally:
            transport.close()
