"""Start a child process and turn its status lines and exit into events."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vllama_pool.workers.process.lifeline import ORPHANED, die_with_parent
from vllama_pool.workers.process.status import RESTARTED, STATUS_FD, ChildStatus, decode

MAX_LINE = 65536


class ChildKind(enum.StrEnum):
    ROUTER = "router"
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A process to start, such as the agent of a WorkerSpec: command line and whole environment."""

    kind: ChildKind
    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    """Secrets travel here, never in argv."""
    fds: tuple[int, ...] = ()
    """Inherited descriptors."""


@dataclass(frozen=True, slots=True)
class StatusChanged:
    child: Child
    status: ChildStatus


@dataclass(frozen=True, slots=True)
class ChildExited:
    child: Child
    code: int
    """Exit code, or minus the signal that killed it."""


Post = Callable[[StatusChanged | ChildExited], None]
"""Called in the event loop; must not block."""


class Child:
    """One process of a ChildSpec. A restart makes a new Child."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.status: ChildStatus | None = None
        self.was_ready = False
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = self.status.state if self.status else "no status"
        return f"<Child {self.spec.name} pid={self.pid} {state}>"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self, post: Post, *, restarted: bool = False) -> None:
        """Start the process and post events until it has exited. Raises OSError. Call it from the main thread.

        `restarted`: it replaces an earlier process of the spec, and is told so.

        The child leads its own process group, so Ctrl-C in the terminal reaches only the supervisor.
        """
        reading, writing = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.spec.argv,
                env={**self.spec.env, STATUS_FD: str(writing), **({RESTARTED: "1"} if restarted else {})},
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
        self._watch = asyncio.create_task(
            self._post_events(self._process, reading, post), name=f"watch {self.spec.name}"
        )

    def signal(self, sig: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(sig)

    async def _post_events(self, process: asyncio.subprocess.Process, pipe: int, post: Post) -> None:
        reading_statuses = asyncio.create_task(self._post_statuses(pipe, post))
        code = await process.wait()
        # The last status may still be in the pipe. Do not wait for a grandchild that keeps the pipe open.
        await asyncio.wait([reading_statuses], timeout=0.5)
        reading_statuses.cancel()
        await asyncio.wait([reading_statuses])
        post(ChildExited(self, code))

    async def _post_statuses(self, pipe: int, post: Post) -> None:
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
