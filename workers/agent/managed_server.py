"""A vLLM that the agent starts, restarts and stops.

    start -> ready -> warm-up -> metadata -> announce -> watch
      ^                                                    |
      +------------------ pause, doubling <----------------+ died

A server whose first start fails is not retried.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx

from vllama_pool.workers.agent.command_line import Address, is_free
from vllama_pool.workers.agent.engine_exit import ENGINE_DIED, engine_exit
from vllama_pool.workers.agent.load_statistics import IdleDetector
from vllama_pool.workers.agent.monitor import Monitor
from vllama_pool.workers.model.describe import Observed
from vllama_pool.workers.process.backoff import Backoff, wait_exponential
from vllama_pool.workers.process.crash_reason import crash_reason
from vllama_pool.workers.process.oom_kills import oom_kills
from vllama_pool.workers.process.server_process import (
    ExitStatus,
    ProcessEnded,
    ProcessState,
    ServerProcess,
    StartFailed,
    rotate,
    tail,
)
from vllama_pool.workers.registry.record import EngineExit, ModelInfo, WorkerState
from vllama_pool.workers.vllm.probe import Health, ProbeFailed, check_health, list_models, tasks, version
from vllama_pool.workers.vllm.warmup import WarmUpFailed, warm_up

MAX_FAILED_POLLS = 3
"""Polls (1 s each) after which a worker receives no requests."""
HANG_TIMEOUT = 120.0
"""Seconds without an answer before a restart."""
DEAD_ENGINE_GRACE = 10.0
"""Seconds for vLLM to exit after its engine died. It checks every 5 s."""
STOP_GRACE = 10.0
"""Seconds from SIGTERM to SIGKILL for an idle server. vLLM needs 2 to 6."""
DRAIN_INTERVAL = 0.1


class GaveUp(Exception):
    """The first start failed. The message is one line."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Facts of a server, empty until it is ready."""

    models: tuple[ModelInfo, ...] = ()
    version: str = ""
    pid: int = 0


class Events(Protocol):
    def ready(self, server: ServerInfo, after: float) -> None:
        """Handle readiness, `after` seconds since the start."""

    def described(self, server: ServerInfo) -> None:
        """Handle a ready server of which more is known."""

    def changed(self, state: WorkerState, note: str) -> None:
        """Handle a server that is not ready, or no longer."""


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """The vLLM process of a WorkerSpec with a model: what to execute and how to describe the result."""

    command: tuple[str, ...]
    env: Mapping[str, str]
    address: Address
    log: Path
    names: tuple[str, ...]
    """Served names, at least one."""
    describe: Callable[[Observed], tuple[ModelInfo, ...]]
    """Reads the model's files, so it runs in a thread."""
    load_timeout: float = math.inf
    """Seconds from start to ready."""


class Process(Protocol):
    """Interface of ServerProcess."""

    pid: int
    state: ProcessState

    @property
    def alive(self) -> bool: ...
    async def start(self) -> None: ...
    async def wait_ready(self, is_ready: Callable[[], Awaitable[bool]]) -> None: ...
    async def wait(self) -> ExitStatus: ...
    async def died_within(self, seconds: float) -> ExitStatus | None: ...
    async def stop(self, grace: float) -> ExitStatus: ...


class ManagedServer:
    """Runs and restarts one server. Run `serve` until cancelled, then `drain` and `stop`, or `kill`."""

    def __init__(
        self,
        spec: ServerSpec,
        client: httpx.AsyncClient,
        monitor: Monitor,
        events: Events,
        *,
        key: str | None = None,
        backoff: Backoff | None = None,
        stop_grace: float = STOP_GRACE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        new_process: Callable[[Sequence[str], Mapping[str, str], Path], Process] = ServerProcess,
        port_is_free: Callable[[str, int], bool] = is_free,
        oom_kills: Callable[[], int] = oom_kills,
    ) -> None:
        self._spec = spec
        self._url = spec.address.local_url
        self._client = client
        self._monitor = monitor
        self._events = events
        self._key = key
        self._backoff = backoff or Backoff(wait_exponential(multiplier=1, max=60), settled=300)
        self._stop_grace = stop_grace
        self._clock = clock
        self._sleep = sleep
        self._new_process = new_process
        self._port_is_free = port_is_free
        self._oom_kills = oom_kills
        self._kills_before = 0
        """For memory, at the server's start."""
        self._process: Process | None = None
        self._restarts = 0
        self._idle = False
        self._exit = EngineExit()
        """The latest end of a server that was ready."""
        monitor.set_exit(self._exit)

    async def serve(self) -> None:
        """Raises GaveUp if the first start fails."""
        while True:
            healthy = 0.0
            try:
                process = await self._start()
            except (StartFailed, ProcessEnded, WarmUpFailed, ProbeFailed, TimeoutError, OSError) as error:
                reason = self._describe_error(error)
                if not self._restarts:
                    raise GaveUp(f"vLLM did not start: {reason}; its log is {self._spec.log}") from error
            else:
                since = self._clock()
                reason = await self._watch(process)
                healthy = self._clock() - since
            pause = self._backoff.pause(healthy)
            self._restarts += 1
            self._report_down(f"vLLM died ({reason}): restarting in {pause:g} s", log=f"{self._spec.log}.1")
            await self.kill()
            await self._sleep(pause)

    async def drain(self, deadline: float) -> None:
        """Wait until the server is idle or gone, or until `deadline` on the clock.

        Without gauges or answers, vLLM itself finishes its requests after SIGTERM.
        """
        process, monitor, idle_detector = self._process, self._monitor, IdleDetector()
        if process is None or process.state is not ProcessState.READY:
            self._idle = True
            return
        monitor.set(WorkerState.DRAINING)
        while process.alive and monitor.failed_polls < MAX_FAILED_POLLS and self._clock() < deadline:
            health = await monitor.poll(self._url)
            if health is Health.OK and idle_detector.update(self._clock(), monitor.metrics):
                self._idle = True
                return
            await process.died_within(DRAIN_INTERVAL)

    async def stop(self, grace: float = 0.0) -> None:
        """Running requests get `grace` seconds, unless `drain` found the server idle."""
        if self._process is not None:
            await self._process.stop(self._stop_grace + (0.0 if self._idle else grace))

    async def kill(self) -> None:
        if self._process is not None:
            await self._process.stop(0)

    async def _start(self) -> Process:
        """Start the server, wait until it is ready, and announce it."""
        spec, started = self._spec, self._clock()
        if not self._port_is_free(spec.address.bound, spec.address.port):
            raise StartFailed(f"port {spec.address.port} on {spec.address.bound} is in use")
        rotate(spec.log)
        self._kills_before = self._oom_kills()
        self._process = process = self._new_process(spec.command, spec.env, spec.log)
        await process.start()
        async with asyncio.timeout(None if math.isinf(spec.load_timeout) else spec.load_timeout):
            await process.wait_ready(self._is_healthy)
            server = await self._unless_ended(process, self._examine(process.pid))
        self._monitor.failed_polls = 0
        self._monitor.set(WorkerState.READY)
        self._events.ready(server, self._clock() - started)
        return process

    async def _is_healthy(self) -> bool:
        """Return True if /health answers 200. vLLM listens only once it is ready."""
        return await check_health(self._client, self._url, self._key) is Health.OK

    async def _examine(self, pid: int) -> ServerInfo:
        """Warm up the server and read its metadata."""
        client, url, key = self._client, self._url, self._key
        models = await list_models(client, url, key)
        self._check_served_name([model.name for model in models])
        kinds = await tasks(client, url, key)
        templated = await warm_up(client, url, models[0].name, kinds, key) if models else None
        infos = await asyncio.to_thread(self._spec.describe, Observed(models, kinds, templated))
        return ServerInfo(infos, await version(client, url, key), pid)

    def _check_served_name(self, served: Sequence[str]) -> None:
        """Raises ProbeFailed if another server answers, because vLLM lets others bind its port."""
        if self._spec.names[0] not in served:
            raise ProbeFailed(
                f"port {self._spec.address.port} is answered by another server, which serves "
                f"{', '.join(served) or 'nothing'}; choose another port"
            )

    async def _unless_ended(self, process: Process, examining: Coroutine[object, object, ServerInfo]) -> ServerInfo:
        """Raises ProcessEnded if the server ends first."""
        task = asyncio.ensure_future(examining)
        ending = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait({task, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not process.alive:
                raise ProcessEnded(await process.wait())
            return await task
        finally:
            for pending in (task, ending):
                pending.cancel()

    async def _watch(self, process: Process) -> str:
        """Poll the server until it is dead, and return the reason."""
        monitor, last_answer = self._monitor, self._clock()
        while True:
            if (exit := await process.died_within(monitor.interval)) is not None:
                self._note_exit(
                    engine_exit(self._exit.number + 1, exit, out_of_memory=self._oom_kills() > self._kills_before)
                )
                return self._describe_error(ProcessEnded(exit))
            health = await monitor.poll(self._url)
            if not process.alive:
                continue
            if health is Health.DEAD:
                self._note_exit(EngineExit(number=self._exit.number + 1, crashed=True, cause=ENGINE_DIED))
                self._report_down("vLLM says that its engine has died")
                await process.died_within(DEAD_ENGINE_GRACE)
                return f"its engine died: {crash_reason(tail(self._spec.log))}"
            if health is Health.OK:
                last_answer = self._clock()
                if monitor.set_up():
                    self._events.changed(monitor.load.state, "vLLM answers again")
            elif self._clock() - last_answer >= HANG_TIMEOUT:
                self._note_exit(EngineExit(number=self._exit.number + 1, cause="stopped: no answer"))
                await process.stop(0)
                return f"no answer for {HANG_TIMEOUT:.0f} s"
            elif monitor.failed_polls == MAX_FAILED_POLLS:
                self._report_down("vLLM does not answer")

    def _note_exit(self, exit: EngineExit) -> None:
        self._exit = exit
        self._monitor.set_exit(exit)

    def _report_down(self, note: str, log: str = "") -> None:
        self._monitor.set(WorkerState.RESTARTING, note, restarts=self._restarts)
        self._events.changed(WorkerState.RESTARTING, f"{note}; its log will be {log}" if log else note)

    def _describe_error(self, error: Exception) -> str:
        match error:
            case ProcessEnded(exit=ExitStatus(code)) if code is not None and code >= 0:
                reason = crash_reason(tail(self._spec.log))
                return f"{error}: {reason}" if reason else str(error)
            case TimeoutError():
                return f"not ready within {self._spec.load_timeout:.0f} s"
        return str(error)
