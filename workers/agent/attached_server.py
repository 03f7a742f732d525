"""A vLLM that someone else starts and stops."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx

from vllama_pool.workers.agent.command_line import is_loopback
from vllama_pool.workers.agent.managed_server import MAX_FAILED_POLLS, Events, ServerInfo
from vllama_pool.workers.agent.monitor import IDLE_INTERVAL, Monitor
from vllama_pool.workers.model.describe import Observed, describe
from vllama_pool.workers.registry.record import WorkerState
from vllama_pool.workers.vllm.abilities import Detection, detect_abilities
from vllama_pool.workers.vllm.flags import Flags
from vllama_pool.workers.vllm.probe import Health, ProbeResult, probe
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
    ) -> None:
        self._url = url.rstrip("/")
        self._client = client
        self._monitor = monitor
        self._events = events
        self._flags = flags
        self._env = env
        self._key = key

    async def serve(self) -> None:
        reported = ""
        while True:
            started = time.monotonic()
            problem = await self._make_ready(started)
            if not problem:
                reported = problem = await self._watch()
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
        first = result.models[0].name
        try:
            templated = await warm_up(self._client, self._url, first, result.tasks, self._key)
        except WarmUpFailed as error:
            return f"{self._url}: {error}"
        detected = await detect_abilities(self._client, self._url, first, self._key) if templated else Detection()
        observed = Observed(result.models, (*result.tasks, *detected.abilities), templated)
        infos = await asyncio.to_thread(describe, self._model_folder(result), self._flags, observed, self._env)
        self._monitor.failed_polls = 0
        self._monitor.set(WorkerState.READY)
        self._events.ready(ServerInfo(infos, result.version), time.monotonic() - started)
        return ""

    async def _watch(self) -> str:
        while True:
            await asyncio.sleep(self._monitor.interval)
            health = await self._monitor.poll(self._url)
            if health is Health.DEAD:
                return f"{self._url} says that its engine has died"
            if self._monitor.failed_polls >= MAX_FAILED_POLLS:
                return f"{self._url} does not answer"

    def _model_folder(self, result: ProbeResult) -> str:
        """Return the model's path on this machine, else ""."""
        return result.models[0].root if is_loopback(urlsplit(self._url).hostname or "") else ""

    def _report_down(self, problem: str) -> None:
        self._monitor.set(WorkerState.STARTING, problem)
        self._events.changed(WorkerState.STARTING, problem)
