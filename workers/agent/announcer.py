"""The agent's link to the registry: register, beat, leave. It retries while Redis is away."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from typing import Protocol

from vllama_pool.workers.agent.load_statistics import is_significant_change
from vllama_pool.workers.process.backoff import Backoff, wait_random_exponential
from vllama_pool.workers.registry.client import Fenced, Registered, RegistryUnavailable
from vllama_pool.workers.registry.keys import BEAT_INTERVAL
from vllama_pool.workers.registry.record import LoadReport, WorkerRecord

JITTER = 0.1
"""Random variation of the beat interval, as a fraction."""
MIN_GAP = 0.2
"""Minimum seconds between two beats."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Bounds of the random pause after a failure, in seconds."""


class Store(Protocol):
    async def register(self, record: WorkerRecord, load: LoadReport) -> Registered | Fenced: ...

    async def beat(self, worker_id: str, generation: int, load: LoadReport) -> bool: ...

    async def deregister(self, worker_id: str, generation: int) -> bool: ...


class FencedOff(Exception):
    """A newer agent has registered under this id. The message is one line."""


class Announcer:
    """Keeps one worker's record and load in the registry, through `run`."""

    def __init__(
        self,
        store: Store,
        print_line: Callable[[str], None],
        *,
        interval: float = BEAT_INTERVAL,
        rng: random.Random,
        absent: str = "",
    ) -> None:
        """`absent` replaces the error message for a registry that does not answer at first."""
        self._store = store
        self._print_line = print_line
        self._absent = absent
        self._interval = interval
        self._rng = rng
        self._record: WorkerRecord | None = None
        self._load = LoadReport()
        self._sent: LoadReport | None = None
        self._registered = False
        self._backoff = Backoff(wait_random_exponential(multiplier=FIRST_PAUSE, min=FIRST_PAUSE, max=LONGEST_PAUSE))
        self._woken = asyncio.Event()

    def announce(self, record: WorkerRecord, load: LoadReport) -> None:
        """Set the record, and register it at once."""
        self._record, self._load = record, load
        self._registered = False
        self._woken.set()

    def report(self, load: LoadReport) -> None:
        """Set the load, and beat early if routers need it."""
        self._load = load
        if self._record is not None and is_significant_change(self._sent, load, self._record.slots):
            self._woken.set()

    @property
    def load(self) -> LoadReport:
        return self._load

    async def run(self) -> None:
        """Beat until cancelled. Raises FencedOff."""
        while True:
            await self._due()
            started = time.monotonic()
            try:
                await self._send()
            except RegistryUnavailable as error:
                if not self._backoff.failures:
                    self._print_line(self._absent if self._absent and self._sent is None else f"trying again: {error}")
                await asyncio.sleep(self._backoff.pause())
                continue
            if self._backoff.failures and self._record is not None:
                self._print_line("the registry answers again")
                self._backoff.reset()
            await asyncio.sleep(max(0.0, MIN_GAP - (time.monotonic() - started)))

    async def deregister(self) -> None:
        """Leave the registry, after `run` has ended. Raises RegistryUnavailable."""
        if self._record is not None and await self._store.deregister(self._record.id, self._record.generation):
            self._registered = False

    async def _due(self) -> None:
        if self._backoff.failures:
            return
        pause = self._interval * self._rng.uniform(1 - JITTER, 1 + JITTER)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._woken.wait()

    async def _send(self) -> None:
        self._woken.clear()
        record, load = self._record, self._load
        if record is None:
            return
        if self._registered and not await self._store.beat(record.id, record.generation, load):
            self._registered = False
        if not self._registered:
            reply = await self._store.register(record, load)
            if isinstance(reply, Fenced):
                raise FencedOff(
                    "a newer agent has taken this worker's place in the registry; "
                    "if that was not meant, give each worker a --name of its own"
                )
            self._registered = record is self._record
        self._sent = load
