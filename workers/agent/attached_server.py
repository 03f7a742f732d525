"""A vLLM that someone else starts and stops."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

import httpx

from vllama_pool.workers.agent.command_line import is_loopback
from vllama_pool.workers.agent.managed_server import MAX_FAILED_POLLS, Events, ServerInfo
from vllama_pool.workers.agent.monitor import IDLE_INTERVAL, Monitor
from vllama_pool.workers.model.describe import Observed, describe
from vllama_pool.workers.registry.record import WorkerState
from vllama_pool.workers.vllm.abilities import Detection, detect_abilities
from vllama_pool.workers.vllm.ability_schedule import AbilitySchedule
from vllama_pool.workers.vllm.flags import Flags
from vllama_pool.workers.vllm.probe import Health, ProbeResult, probe
from vllama_pool.workers.vllm.server_identity import SEVERAL_SERVERS
from vllama_pool.workers.vllm.warmup import WarmUpFailed, warm_up


class AttachedServer:
    """Polls and announces one server. Run `serve` until cancelled."""

    def __init__(
        self,
        url: str,
        client: httpx.AsyncClient,
        monitor: Monitor,
        events: Events,
        *,
        flags: Flags,
        env: Mapping[str, str] = os.environ,
        key: str | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._url = url.rstrip("/")
        self._client = client
        self._monitor = monitor
        self._events = events
        self._flags = flags
        self._env = env
        self._key = key
        self._sleep = sleep
        """For the time until abilities are asked for again."""
        self._seen = ProbeResult(Health.UNREACHABLE)
        """The latest that succeeded."""
        self._examined = ""
        """The first model of the server whose template and abilities are known."""
        self._templated: bool | None = None
        self._schedule = AbilitySchedule()
        self._reported_several = False

    async def serve(self) -> None:
        reported = ""
        while True:
            started = time.monotonic()
            problem = await self._make_ready(started)
            if not problem:
                reported = problem = await self._watch_and_learn()
                if not problem:
                    continue  # it was restarted, and answers
                self._report_down(problem)
            elif problem != reported:
                reported = problem
                self._report_down(problem)
            await asyncio.sleep(IDLE_INTERVAL)

    async def drain(self, deadline: float) -> None:
        """Report DRAINING and return at once."""
        self._monitor.set(WorkerState.DRAINING)

    async def stop(self, grace: float = 0.0) -> None:
        pass

    async def kill(self) -> None:
        pass

    async def _make_ready(self, started: float) -> str:
        """Announce a healthy server, else return the problem."""
        result = await probe(self._client, self._url, self._key)
        if result.health is not Health.OK or not result.models:
            return result.problem or f"{self._url} serves no models"
        if result.metrics.asleep:
            return f"{self._url} sleeps; it joins when it wakes up"
        self._seen = result
        try:
            await self._examine()
        except WarmUpFailed as error:
            return f"{self._url}: {error}"
        server = await self._describe()
        self._monitor.failed_polls, self._monitor.restarted = 0, False
        self._monitor.set(WorkerState.READY)
        self._events.ready(server, time.monotonic() - started)
        return ""

    async def _examine(self) -> None:
        """Warm up and ask for abilities, unless the server was not restarted since. Raises WarmUpFailed."""
        first, tasks = self._seen.models[0].name, self._seen.tasks
        self._monitor.observe(self._seen.metrics)
        if self._examined == first and not self._monitor.restarted:
            return
        self._examined, self._schedule = "", AbilitySchedule()
        self._templated = await warm_up(self._client, self._url, first, tasks, self._key)
        if "completion" in tasks and self._templated is not False:
            await self._detect()
        else:
            self._schedule.answered(Detection(), self._schedule.version, time.monotonic())
        self._examined = first

    async def _detect(self) -> bool:
        """Return True if that changes what is known."""
        detected = await detect_abilities(self._client, self._url, self._seen.models[0].name, self._key)
        return self._schedule.answered(detected, self._schedule.version, time.monotonic())

    async def _describe(self) -> ServerInfo:
        seen, schedule = self._seen, self._schedule
        observed = Observed(seen.models, (*seen.tasks, *schedule.abilities), self._templated, schedule.undetected)
        infos = await asyncio.to_thread(describe, self._model_folder(seen), self._flags, observed, self._env)
        return ServerInfo(infos, seen.version)

    async def _watch_and_learn(self) -> str:
        """Return as `_watch`. Meanwhile, detect the abilities that a busy server did not show at first."""
        async with asyncio.TaskGroup() as tasks:
            learning = tasks.create_task(self._learn())
            problem = await self._watch()
            learning.cancel()
        return problem

    async def _learn(self) -> None:
        while self._schedule.due is not None:
            await self._sleep(max(IDLE_INTERVAL, self._schedule.due - time.monotonic()))
            if self._monitor.load.state is WorkerState.READY and await self._detect():
                self._events.described(await self._describe())

    async def _watch(self) -> str:
        """Return the problem, or "" if the server was restarted and answers."""
        monitor = self._monitor
        while True:
            await asyncio.sleep(monitor.interval)
            health = await monitor.poll(self._url)
            if health is Health.DEAD and not monitor.several:
                return f"{self._url} says that its engine has died"
            if monitor.failed_polls >= MAX_FAILED_POLLS:
                return monitor.problem
            if monitor.restarted:
                return ""
            self._report_several()

    def _report_several(self) -> None:
        if self._monitor.several and not self._reported_several:
            self._reported_several = True
            self._events.changed(self._monitor.load.state, f"{self._url}: {SEVERAL_SERVERS}")

    def _model_folder(self, result: ProbeResult) -> str:
        """Return the model's path on this machine, else ""."""
        return result.models[0].root if is_loopback(urlsplit(self._url).hostname or "") else ""

    def _report_down(self, problem: str) -> None:
        self._monitor.set(WorkerState.STARTING, problem)
        self._events.changed(WorkerState.STARTING, problem)
