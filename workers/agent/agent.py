"""The worker agent: one process beside one vLLM.

    start -> ready -> warm-up -> announce -> beat -> drain -> deregister -> stop

managed_server.py or attached_server.py handles the server, announcer.py the registry entry.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

from vllama_pool.config.redaction import redacted
from vllama_pool.config.settings import RegistrySettings, WorkerSettings
from vllama_pool.workers.agent import state_files
from vllama_pool.workers.agent.announcer import Announcer, FencedOff
from vllama_pool.workers.agent.attached_server import AttachedServer
from vllama_pool.workers.agent.command_line import CannotStart, WorkerSpec
from vllama_pool.workers.agent.managed_server import GaveUp, ManagedServer, ServerInfo
from vllama_pool.workers.agent.monitor import Monitor
from vllama_pool.workers.agent.prepare import AgentPlan, prepare
from vllama_pool.workers.model.describe import slim
from vllama_pool.workers.process.lifeline import ORPHANED
from vllama_pool.workers.process.status import ChildStatus, StatusPipe
from vllama_pool.workers.registry.client import Registry, RegistryUnavailable, connect
from vllama_pool.workers.registry.embedded import EmbeddedFailed, address
from vllama_pool.workers.registry.record import WorkerRecord, WorkerState
from vllama_pool.workers.vllm.flags import Flags
from vllama_pool.workers.vllm.probe import http_client

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
DEREGISTER_TIMEOUT = 1.5
MAX_MODELS = 700 << 10
"""Maximum bytes of JSON for a record's models. Routers reject records above 1 MiB."""

PrintLine = Callable[[str], None]


class Server(Protocol):
    async def serve(self) -> None: ...
    async def drain(self, deadline: float) -> None: ...
    async def stop(self, grace: float = 0.0) -> None: ...
    async def kill(self) -> None: ...


class StatusPublisher:
    """Passes the server's state changes to the registry, the supervisor and the terminal."""

    def __init__(
        self, plan: AgentPlan, announcer: Announcer, monitor: Monitor, status: StatusPipe, print_line: PrintLine
    ) -> None:
        self._plan = plan
        self._announcer = announcer
        self._monitor = monitor
        self._status = status
        self._print_line = print_line

    def starting(self, activity: str, notes: Sequence[str] = ()) -> None:
        self._print_line(activity)
        self._announcer.announce(self._record(ServerInfo()), self._monitor.load)
        for note in notes:
            self._print_line(note)
            self._status.send(ChildStatus(WorkerState.STARTING, note))
        self._status.send(ChildStatus(WorkerState.STARTING))

    def ready(self, server: ServerInfo, after: float) -> None:
        self._announcer.announce(self._record(server), self._monitor.load)
        names = tuple(name for model in server.models for name in model.names)
        self._status.send(ChildStatus(WorkerState.READY, models=names, generation=self._plan.generation))
        self._print_line(f"ready after {after:.0f} s")

    def described(self, server: ServerInfo) -> None:
        self._announcer.announce(self._record(server), self._monitor.load)

    def changed(self, state: WorkerState, note: str) -> None:
        self._status.send(ChildStatus(state, note))
        self._print_line(note)

    def _record(self, server: ServerInfo) -> WorkerRecord:
        plan = self._plan
        return WorkerRecord(
            id=plan.worker_id,
            generation=plan.generation,
            url=plan.url,
            models=slim(server.models, MAX_MODELS),
            slots=plan.slots,
            engine=plan.spec.engine,
            engine_version=server.version,
            tags=plan.spec.tags,
            started=time.time(),
            host=socket.gethostname(),
            pid=server.pid,
        )


class Agent:
    """Runs a server and its announcements until `stop`."""

    def __init__(self, server: Server, announcer: Announcer, *, grace: float, print_line: PrintLine) -> None:
        self._server = server
        self._announcer = announcer
        self._grace = grace
        self._print_line = print_line
        self._stopping = asyncio.Event()
        self._forced = asyncio.Event()

    def stop(self) -> None:
        """Drain and stop; at once on the second call."""
        (self._forced if self._stopping.is_set() else self._stopping).set()

    def orphaned(self) -> None:
        """Drain and stop. The supervisor has died."""
        self._stopping.set()

    async def run(self) -> None:
        """Raises GaveUp or FencedOff, after the server has stopped."""
        serving = asyncio.create_task(self._server.serve())
        beating = asyncio.create_task(self._announcer.run())
        stopping = asyncio.create_task(self._stopping.wait())
        tasks = (serving, beating, stopping)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await _cancel(serving)
            grace = self._grace if not serving.done() or serving.cancelled() else 0.0
            await self._run_until_forced(self._shut_down(beating, grace))
        finally:
            await self._server.kill()
            await _cancel(*tasks)
        for task in (serving, beating):
            if not task.cancelled() and (error := task.exception()) is not None and not self._stopping.is_set():
                raise error

    async def _shut_down(self, beating: asyncio.Task[None], grace: float) -> None:
        """Drain while beats continue, deregister, stop the server."""
        deadline = time.monotonic() + grace
        if self._stopping.is_set():
            self._print_line(f"draining: running requests get {grace:.0f} s")
        await self._server.drain(deadline)
        await _cancel(beating)
        await self._deregister(DEREGISTER_TIMEOUT)
        await self._server.stop(max(0.0, deadline - time.monotonic()))

    async def _run_until_forced(self, shutdown: Coroutine[object, object, None]) -> None:
        task, forced = asyncio.create_task(shutdown), asyncio.create_task(self._forced.wait())
        try:
            await asyncio.wait((task, forced), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
            else:
                self._print_line("stopping now")
                await _cancel(task)
                await self._deregister(DEREGISTER_TIMEOUT / 3)
        finally:
            await _cancel(task, forced)

    async def _deregister(self, timeout: float) -> None:
        with contextlib.suppress(RegistryUnavailable, TimeoutError):
            async with asyncio.timeout(timeout):
                await self._announcer.deregister()


async def run_agent(
    spec: WorkerSpec,
    settings: WorkerSettings,
    *,
    env: Mapping[str, str] = os.environ,
    status: StatusPipe | None = None,
    write: PrintLine | None = None,
) -> int:
    """Run one worker until a stop signal, and return the exit code. Call it in the main thread.

    `write` receives one line per change of state; under a supervisor, only errors. The default is stderr.
    """
    pipe = status or StatusPipe.from_environment(env)
    write = write or _to_stderr
    try:
        with prepare(spec, settings, env) as plan:
            await _run(plan, settings.registry, pipe, write)
    except (CannotStart, GaveUp, FencedOff, EmbeddedFailed) as error:
        write(f"vllama: {error}")  # not through the pipe, or the supervisor would print it twice
        return 1
    return 0


async def _run(plan: AgentPlan, settings: RegistrySettings, pipe: StatusPipe, write: PrintLine) -> None:
    def print_line(text: str) -> None:
        if not pipe.connected:
            write(f"worker {plan.worker_id}  {text}")

    redis = connect(settings.redis_url or address(settings.state_dir))
    secret = settings.fleet_secret
    registry = Registry(redis, settings.fleet, secret=secret.get_secret_value().encode() if secret else None)
    missing = "" if settings.redis_url else f"no registry in {settings.state_dir} yet: waiting for vllama serve"
    keep = partial(state_files.keep_generation, settings.state_dir, plan.worker_id)
    announcer = Announcer(registry, print_line, rng=random.Random(), missing=missing, keep=keep)
    async with http_client(plan.probe_timeout, verify=not plan.server) as client:
        monitor = Monitor(client, announcer.report, plan.key, timeout=plan.probe_timeout)
        publisher = StatusPublisher(plan, announcer, monitor, pipe, print_line)
        server: Server
        if plan.server is not None:
            server = ManagedServer(plan.server, client, monitor, publisher, key=plan.key)
            loading = f"loading {' '.join(plan.server.names)} on port {plan.server.address.port}"
            publisher.starting(loading, plan.notes)
        else:
            url, flags = plan.spec.attach, Flags(plan.spec.flags)
            server = AttachedServer(url, client, monitor, publisher, flags=flags, key=plan.key)
            publisher.starting(f"attaching to {url}")
        agent = Agent(server, announcer, grace=plan.grace, print_line=print_line)
        with _signal_handlers(agent.stop, agent.orphaned):
            try:
                await agent.run()
                print_line("stopped")
            finally:
                await redis.aclose()


@contextlib.contextmanager
def _signal_handlers(stop: Callable[[], None], orphaned: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    actions = {n: stop for n in STOP_SIGNALS if signal.getsignal(n) is not signal.SIG_IGN}  # nohup ignores SIGHUP
    actions[ORPHANED] = orphaned
    for number, action in actions.items():
        loop.add_signal_handler(number, action)
    try:
        yield
    finally:
        for number in actions:
            loop.remove_signal_handler(number)


async def _cancel(*tasks: asyncio.Task[object] | asyncio.Task[None] | asyncio.Task[bool]) -> None:
    """Cancel the tasks and wait for them, ignoring their exceptions.

    Repeats the cancellation, because a task that is just completing can swallow it.
    """
    pending: set[asyncio.Task[object] | asyncio.Task[None] | asyncio.Task[bool]] = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.1)


def _to_stderr(line: str) -> None:
    with contextlib.suppress(OSError):  # a closed pipe or a full disk must not stop the worker
        sys.stderr.write(redacted(line) + "\n")
        sys.stderr.flush()
