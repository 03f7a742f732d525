"""A vLLM run by the agent: start it, restart it, stop it.

    start -> ready -> warm-up -> metadata -> announce -> watch
      ^                                                    |
      +------------------ pause, doubling <----------------+ died

A server that fails its first start is not retried: the worker gives up.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx

from vllama_pool.workers.agent.command_line import Address, is_free, served_name
from vllama_pool.workers.agent.load_statistics import IdleDetector
from vllama_pool.workers.agent.monitor import Monitor
from vllama_pool.workers.model.describe import Observed, describe
from vllama_pool.workers.process.backoff import Backoff, wait_exponential
from vllama_pool.workers.process.crash_reason import crash_reason
from vllama_pool.workers.process.server_process import (
    ExitStatus,
    ProcessEnded,
    ProcessState,
    ServerProcess,
    StartFailed,
    rotate,
    tail,
)
from vllama_pool.workers.registry.record import ModelInfo, WorkerState
from vllama_pool.workers.vllm.flags import Flags
from vllama_pool.workers.vllm.probe import Health, ProbeFailed, check_health, list_models, tasks, version
from vllama_pool.workers.vllm.warmup import WarmUpFailed, warm_up

MISSES = 3
"""Failed polls (1 s each) before a worker receives no requests."""
HANG = 120.0
"""Seconds without an answer before a server is restarted."""
DEAD_ENGINE_GRACE = 10.0
"""Seconds for vLLM to exit after its engine died. It checks every 5 s."""
STOP_GRACE = 10.0
"""Seconds from SIGTERM to SIGKILL for an idle server. vLLM needs 2 to 6."""
DRAIN_INTERVAL = 0.1


class GaveUp(Exception):
    """The server never became ready. The message is one line."""


@dataclass(frozen=True, slots=True)
class Ready:
    url: str
    models: tuple[ModelInfo, ...]
    version: str
    pid: int = 0


class Events(Protocol):
    """Receiver of a server's state changes."""

    def ready(self, server: Ready, after: float) -> None:
        """Handle a server that is ready, `after` seconds since its start."""

    def changed(self, state: WorkerState, note: str) -> None:
        """Handle a server that is not ready, or no longer."""


Describe = Callable[[str, Flags, Observed, Mapping[str, str]], tuple[ModelInfo, ...]]
"""Function from (model, flags, observations, environment) to the served models."""


@dataclass(frozen=True, slots=True)
class Launch:
    command: tuple[str, ...]
    env: Mapping[str, str]
    address: Address
    log: Path
    model: str
    flags: Flags
    load_timeout: float = math.inf
    """Seconds from start to ready."""
    describe: Describe = describe


class ManagedServer:
    """Runs and restarts one server. Run `serve` until cancelled, then `drain` and `stop`, or `kill`."""

    def __init__(
        self,
        launch: Launch,
        client: httpx.AsyncClient,
        monitor: Monitor,
        events: Events,
        *,
        key: str | None = None,
        backoff: Backoff | None = None,
        stop_grace: float = STOP_GRACE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._launch = launch
        self._url = launch.address.local_url
        self._client = client
        self._monitor = monitor
        self._events = events
        self._key = key
        self._backoff = backoff or Backoff(wait_exponential(multiplier=1, max=60), settled=300)
        self._stop_grace = stop_grace
        self._clock = clock
        self._process: ServerProcess | None = None
        self._restarts = 0
        self._idle = False

    async def serve(self) -> None:
        """Raises GaveUp if the first start fails."""
        while True:
            healthy = 0.0
            try:
                await self._make_ready()
            except (StartFailed, ProcessEnded, WarmUpFailed, ProbeFailed, TimeoutError, OSError) as error:
                reason = self._reason(error)
                if not self._restarts:
                    raise GaveUp(f"vLLM did not start: {reason}; its log is {self._launch.log}") from error
            else:
                since = self._clock()
                reason = await self._watch()
                healthy = self._clock() - since
            pause = self._backoff.pause(healthy)
            self._restarts += 1
            self._down(f"vLLM died ({reason}): restarting in {pause:g} s", log=f"{self._launch.log}.1")
            await self._clean_up()
            await asyncio.sleep(pause)

    async def drain(self, deadline: float) -> None:
        """Wait until the server is idle or gone, or until `deadline` on the clock.

        Without gauges or answers, vLLM itself finishes its requests after SIGTERM.
        """
        run, monitor, idle_detector = self._process, self._monitor, IdleDetector()
        if run is None or run.state is not ProcessState.READY:
            self._idle = True
            return
        monitor.set(WorkerState.DRAINING)
        while run.alive and monitor.misses < MISSES and self._clock() < deadline:
            health = await monitor.poll(self._url)
            if health is Health.OK and idle_detector.update(self._clock(), monitor.metrics):
                self._idle = True
                return
            await run.died_within(DRAIN_INTERVAL)

    async def stop(self, grace: float = 0.0) -> None:
        """Stop the server. Running requests get `grace` seconds, unless `drain` found it idle."""
        if self._process is not None:
            await self._process.stop(self._stop_grace + (0.0 if self._idle else grace))

    async def kill(self) -> None:
        if self._process is not None:
            await self._process.stop(0)

    async def _make_ready(self) -> None:
        launch, started = self._launch, self._clock()
        if not is_free(launch.address.bound, launch.address.port):
            raise StartFailed(f"port {launch.address.port} on {launch.address.bound} is in use")
        rotate(launch.log)
        self._process = run = ServerProcess(launch.command, launch.env, launch.log)
        await run.start()
        async with asyncio.timeout(None if math.isinf(launch.load_timeout) else launch.load_timeout):
            await run.wait_ready(self._is_healthy)
            server = await self._unless_ended(run, self._examine(run.pid))
        self._monitor.misses = 0
        self._monitor.set(WorkerState.READY)
        self._events.ready(server, self._clock() - started)

    async def _is_healthy(self) -> bool:
        """Return True if /health answers 200. vLLM listens only once it is ready."""
        return await check_health(self._client, self._url, self._key) is Health.OK

    async def _examine(self, pid: int) -> Ready:
        """Warm up the server and read its metadata."""
        client, url, key = self._client, self._url, self._key
        models = await list_models(client, url, key)
        self._check_served_name([model.name for model in models])
        kinds = await tasks(client, url, key)
        templated = await warm_up(client, url, models[0].name, kinds, key) if models else None
        seen = Observed(models, kinds, templated)
        launch = self._launch
        infos = await asyncio.to_thread(launch.describe, launch.model, launch.flags, seen, launch.env)
        return Ready(launch.address.url, infos, await version(client, url, key), pid)

    def _check_served_name(self, served: Sequence[str]) -> None:
        """Raises ProbeFailed if another server answers, because vLLM lets others bind its port."""
        launch = self._launch
        names = launch.flags.values("--served-model-name") or (served_name(launch.model),)
        if names[0] not in served:
            raise ProbeFailed(
                f"port {launch.address.port} is answered by another server, which serves "
                f"{', '.join(served) or 'nothing'}; choose another port"
            )

    async def _unless_ended(self, run: ServerProcess, examining: Coroutine[object, object, Ready]) -> Ready:
        """Examine the server. Raises ProcessEnded if it ends first."""
        task = asyncio.ensure_future(examining)
        ending = asyncio.ensure_future(run.wait())
        try:
            await asyncio.wait({task, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not run.alive:
                raise ProcessEnded(await run.wait())
            return await task
        finally:
            for pending in (task, ending):
                pending.cancel()

    async def _watch(self) -> str:
        run, monitor = self._process, self._monitor
        assert run is not None
        silent_since = self._clock()
        while True:
            if (exit := await run.died_within(monitor.interval)) is not None:
                return self._reason(ProcessEnded(exit))
            health = await monitor.poll(self._url)
            if not run.alive:
                continue
            if health is Health.DEAD:
                self._down("vLLM says that its engine has died")
                await run.died_within(DEAD_ENGINE_GRACE)
                return f"its engine died: {crash_reason(tail(run.log))}"
            if health is Health.OK:
                silent_since = self._clock()
                if monitor.set_up():
                    self._events.changed(monitor.load.state, "vLLM answers again")
            elif self._clock() - silent_since >= HANG:
                await run.stop(0)
                return f"no answer for {HANG:.0f} s"
            elif monitor.misses == MISSES:
                self._down("vLLM does not answer")

    def _down(self, note: str, log: str = "") -> None:
        self._monitor.set(WorkerState.RESTARTING, note, restarts=self._restarts)
        self._events.changed(WorkerState.RESTARTING, f"{note}; its log will be {log}" if log else note)

    async def _clean_up(self) -> None:
        if self._process is not None:
            await self._process.stop(0)

    def _reason(self, error: Exception) -> str:
        match error:
            case ProcessEnded(exit=ExitStatus(code)) if code is not None and code >= 0:
                words = crash_reason(tail(self._launch.log))
                return f"{error}: {words}" if words else str(error)
            case TimeoutError():
                return f"not ready within {self._launch.load_timeout:.0f} s"
        return str(error)
