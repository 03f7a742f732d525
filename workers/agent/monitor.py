"""Poll one server for the worker's load report."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx
import msgspec

from vllama_pool.workers.agent.load_statistics import TokenRate
from vllama_pool.workers.registry.record import EngineExit, LoadReport, WorkerState
from vllama_pool.workers.vllm.probe import Health, Metrics, ProbeFailed, examine, scrape
from vllama_pool.workers.vllm.server_identity import SEVERAL_SERVERS, ServerIdentity, Sighting

RECONNECT_EVERY = 20
"""Polls."""
BUSY_INTERVAL, IDLE_INTERVAL = 0.25, 0.5
"""Seconds. A metrics page costs vLLM about 5 ms of one core."""
RETRY_INTERVAL = 0.1
"""Seconds after a poll that timed out: by default, three of them take a frozen server out of rotation within 4 s."""


class Monitor:
    def __init__(
        self,
        client: httpx.AsyncClient,
        report: Callable[[LoadReport], None],
        key: str | None = None,
        *,
        timeout: float = 1.0,
    ) -> None:
        """`timeout`: that of `client` in seconds. vLLM answers in about 10 ms."""
        self._client = client
        self._timeout = timeout
        self._report = report
        self._key = key
        self._rate = TokenRate()
        self._identity = ServerIdentity()
        self._polls = 0
        self._load = LoadReport(state=WorkerState.STARTING)
        self.metrics = Metrics()
        """Last successful scrape."""
        self.failed_polls = 0
        """In a row."""
        self.problem = ""
        """Why the latest poll failed."""
        self._timed_out = False
        """The latest poll got no answer in time."""
        self.restarted = False
        """True if the server was restarted or replaced. Set it to False once that is handled."""

    @property
    def load(self) -> LoadReport:
        return self._load

    def set(self, state: WorkerState, note: str = "", *, restarts: int | None = None) -> None:
        """Report a new state. A server that is down has no figures."""
        down = state in (WorkerState.STARTING, WorkerState.RESTARTING, WorkerState.STOPPED)
        if down:
            self._identity.interrupt()
        old = LoadReport(restarts=self._load.restarts, exit=self._load.exit) if down else self._load
        changes = {"state": state, "note": note} | ({} if restarts is None else {"restarts": restarts})
        self._load = msgspec.structs.replace(old, **changes)
        self._report(self._load)

    def set_exit(self, exit: EngineExit) -> None:
        """Note how the engine ended, for the next reports."""
        self._load = msgspec.structs.replace(self._load, exit=exit)

    def set_up(self) -> bool:
        """Replace RESTARTING by READY or SLEEPING. Return False in any other state."""
        if self._load.state is not WorkerState.RESTARTING:
            return False
        self.set(WorkerState.SLEEPING if self.metrics.asleep else WorkerState.READY)
        return True

    async def poll(self, url: str) -> Health:
        began = time.monotonic()
        result, _ = await asyncio.gather(examine(self._client, url, self._key), self._scrape(url))
        self.problem = result.problem
        self._timed_out = result.health is Health.UNREACHABLE and time.monotonic() - began >= self._timeout
        self.failed_polls = 0 if result.health is Health.OK else self.failed_polls + 1
        return result.health

    @property
    def several(self) -> bool:
        """True if several servers seem to answer."""
        return self._identity.several

    def observe(self, metrics: Metrics) -> None:
        """Set `restarted` if they show it."""
        self.restarted = self._identity.observe(metrics.observation) is Sighting.RESTARTED or self.restarted

    @property
    def interval(self) -> float:
        if self._timed_out:
            return RETRY_INTERVAL
        return BUSY_INTERVAL if self.metrics.running or self.metrics.waiting else IDLE_INTERVAL

    def _state_from(self, metrics: Metrics) -> WorkerState:
        """Follow the engine between READY and SLEEPING; the agent sets other states."""
        if self._load.state not in (WorkerState.READY, WorkerState.SLEEPING):
            return self._load.state
        return WorkerState.SLEEPING if metrics.asleep else WorkerState.READY

    async def _scrape(self, url: str) -> None:
        try:
            if reconnect := self._reconnects():
                self.observe(await scrape(self._client, url, self._key, last=True))
            metrics = await scrape(self._client, url, self._key, last=reconnect)
        except ProbeFailed:
            return
        self.metrics = metrics
        self.observe(metrics)
        rate = self._rate.update(time.monotonic(), metrics.generation_tokens)
        self._load = msgspec.structs.replace(
            self._load,
            state=self._state_from(metrics),
            running=metrics.running,
            waiting=metrics.waiting,
            kv_usage=metrics.kv_usage,
            tokens_per_second=rate if self._identity.certain else 0.0,
            note=self._note(),
        )
        self._report(self._load)

    def _note(self) -> str:
        if self._load.state is not WorkerState.READY:
            return self._load.note
        return SEVERAL_SERVERS if self.several else ""

    def _reconnects(self) -> bool:
        """True if this poll reads the figures twice and on new connections, as a balancer may have other servers."""
        self._polls += 1
        return self._identity.unconfirmed or self._polls % RECONNECT_EVERY == 0
