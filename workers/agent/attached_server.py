"""A vLLM started by someone else: watched and announced, never started or stopped."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx

from vllama_pool.workers.agent.command_line import is_loopback
from vllama_pool.workers.agent.managed_server import MISSES, Events, Ready
from vllama_pool.workers.agent.monitor import IDLE_INTERVAL, Monitor
from vllama_pool.workers.model.describe import Observed, describe
from vllama_pool.workers.registry.record import WorkerState
from vllama_pool.workers.vllm.abilities import Detection, detect_abilities
from vllama_pool.workers.vllm.flags import Flags
from vllama_pool.workers.vllm.probe import Health, ProbeResult, probe
from vllama_pool.workers.vllm.warmup import WarmUpFailed, warm_up


class AttachedServer:
    """Follows one server's health. Run `serve` until cancelled."""

    def __init__(
        self,
        url: str,
        advertised_url: str,
        client: httpx.AsyncClient,
        monitor: Monitor,
        events: Events,
        *,
        flags: Flags,
        env: Mapping[str, str] = os.environ,
        key: str | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._advertised_url = advertised_url
        self._client = client
        self._monitor = monitor
        self._events = events
        self._flags = flags
        self._env = env
        self._key = key

    async def serve(self) -> None:
        said = ""
        while True:
            started = time.monotonic()
            problem = await self._make_ready(started)
            if not problem:
                said = problem = await self._watch()
                self._down(problem)
            elif problem != said:
                said = problem
                self._down(problem)
            await asyncio.sleep(IDLE_INTERVAL)

    async def drain(self, deadline: float) -> None:
        """Report DRAINING. Returns at once, because the server keeps running."""
        self._monitor.set(WorkerState.DRAINING)

    async def stop(self, grace: float = 0.0) -> None:
        """Do nothing: the server is not ours."""

    async def kill(self) -> None:
        """Do nothing: the server is not ours."""

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
        seen = Observed(result.models, (*result.tasks, *detected.abilities), templated)
        infos = await asyncio.to_thread(describe, self._folder(result), self._flags, seen, self._env)
        self._monitor.misses = 0
        self._monitor.set(WorkerState.READY)
        self._events.ready(Ready(self._advertised_url, infos, result.version), time.monotonic() - started)
        return ""

    async def _watch(self) -> str:
        while True:
            await asyncio.sleep(self._monitor.interval)
            health = await self._monitor.poll(self._url)
            if health is Health.DEAD:
                return f"{self._url} says that its engine has died"
            if self._monitor.misses >= MISSES:
                return f"{self._url} does not answer"

    def _folder(self, result: ProbeResult) -> str:
        """Return the model's path on this machine, else ""."""
        return result.models[0].root if is_loopback(urlsplit(self._url).hostname or "") else ""

    def _down(self, problem: str) -> None:
        self._monitor.set(WorkerState.STARTING, problem)
        self._events.changed(WorkerState.STARTING, problem)
