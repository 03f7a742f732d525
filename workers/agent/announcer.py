"""Register, beat and deregister one worker, with retries while Redis is unavailable."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from vllama_pool.workers.agent.load_statistics import is_significant_change
from vllama_pool.workers.agent.takeover import SILENT, Rival, Verdict, judge
from vllama_pool.workers.process.backoff import Backoff, wait_random_exponential
from vllama_pool.workers.registry.client import Fenced, Registered, RegistryUnavailable
from vllama_pool.workers.registry.keys import BEAT_INTERVAL
from vllama_pool.workers.registry.record import LoadReport, WorkerRecord

JITTER = 0.1
"""Fraction of the beat interval."""
MIN_BEAT_INTERVAL = 0.2
MAX_PROBLEMS = 8
"""Problems printed in one outage."""
SPREAD = 1 << 20
"""Generations among which two agents that take over at once draw theirs, so that one of them is the newer."""
MIN_RETRY_PAUSE, MAX_RETRY_PAUSE = 0.1, 1.0


class Store(Protocol):
    async def register(self, record: WorkerRecord, load: LoadReport) -> Registered | Fenced: ...

    async def beat(self, worker_id: str, generation: int, load: LoadReport) -> bool: ...

    async def deregister(self, worker_id: str, generation: int) -> bool: ...


_OWN_NAME = "if that was not meant, give each worker a --name of its own"


class FencedOff(Exception):
    """Another agent is registered under this id. The message is one line."""


class Announcer:
    """Keeps one worker's record and load report in the registry."""

    def __init__(
        self,
        store: Store,
        print_line: Callable[[str], None],
        *,
        interval: float = BEAT_INTERVAL,
        rng: random.Random,
        missing: str = "",
        keep: Callable[[int], None] = lambda generation: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`missing` replaces the error message for a registry that does not answer at first.

        `keep` lets later starts of this worker exceed a generation. `clock` returns monotonic seconds.
        """
        self._store = store
        self._print_line = print_line
        self._missing = missing
        self._interval = interval
        self._rng = rng
        self._record: WorkerRecord | None = None
        self._load = LoadReport()
        self._sent: LoadReport | None = None
        self._registered = False
        self._was_registered = False
        self._keep = keep
        self._clock = clock
        self._rival: Rival | None = None
        self._raised = 0
        """Generation in place of the record's, after this agent has taken over from a dead one; 0 before."""
        self._backoff = Backoff(
            wait_random_exponential(multiplier=MIN_RETRY_PAUSE, min=MIN_RETRY_PAUSE, max=MAX_RETRY_PAUSE)
        )
        self._wake_up = asyncio.Event()
        self._told: set[str] = set()
        """Problems printed since the registry was last usable."""

    def announce(self, record: WorkerRecord, load: LoadReport) -> None:
        """Register a record at once."""
        self._record, self._load = record, load
        self._registered = False
        self._wake_up.set()

    def report(self, load: LoadReport) -> None:
        """Set the load for the next beat. A significant change is sent early."""
        self._load = load
        if self._record is not None and is_significant_change(self._sent, load, self._record.slots):
            self._wake_up.set()

    @property
    def load(self) -> LoadReport:
        return self._load

    async def run(self) -> None:
        """Beat until cancelled. Raises FencedOff."""
        while True:
            await self._wait_until_due()
            started = time.monotonic()
            try:
                await self._send()
            except RegistryUnavailable as error:
                self._tell(self._missing if self._missing and self._sent is None else f"trying again: {error}")
                await asyncio.sleep(self._backoff.pause())
                continue
            if self._backoff.failures and self._record is not None:
                self._print_line("the registry can be used again")
                self._backoff.reset()
                self._told.clear()
            await asyncio.sleep(max(0.0, MIN_BEAT_INTERVAL - (time.monotonic() - started)))

    def _tell(self, problem: str) -> None:
        """Print each problem of an outage once."""
        if problem not in self._told and len(self._told) < MAX_PROBLEMS:
            self._told.add(problem)
            self._print_line(problem)

    async def deregister(self) -> None:
        """Call after `run` has ended. Raises RegistryUnavailable."""
        if self._record is None:
            return
        record = self._numbered(self._record)
        if await self._store.deregister(record.id, record.generation):
            self._registered = False

    async def _wait_until_due(self) -> None:
        if self._backoff.failures:
            return
        pause = self._interval * self._rng.uniform(1 - JITTER, 1 + JITTER)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._wake_up.wait()

    async def _send(self) -> None:
        self._wake_up.clear()
        record, load = self._record, self._load
        if record is None:
            return
        numbered = self._numbered(record)
        if self._registered and not await self._store.beat(record.id, numbered.generation, load):
            self._registered = False
        if not self._registered:
            reply = await self._store.register(numbered, load)
            if isinstance(reply, Fenced):
                self._meet(reply)
                return
            self._registered, self._was_registered = record is self._record, True
        self._sent = load

    def _numbered(self, record: WorkerRecord) -> WorkerRecord:
        return msgspec.structs.replace(record, generation=self._raised) if self._raised else record

    def _meet(self, other: Fenced) -> None:
        """Wait until a start with a higher generation has been silent, then exceed it. Raises FencedOff if it lives."""
        if self._was_registered:
            raise FencedOff(f"a newer agent has taken this worker's place in the registry; {_OWN_NAME}")
        is_new = self._rival is None
        verdict, self._rival = judge(self._rival, other.generation, other.beat, self._clock())
        if verdict is Verdict.REFUSED:
            raise FencedOff(f"another agent of this worker is alive, whose start is newer by its clock; {_OWN_NAME}")
        if verdict is Verdict.TAKE_OVER:
            self._raised = other.generation + 1 + self._rng.randrange(SPREAD)
            self._keep(self._raised)
            self._wake_up.set()
        elif is_new:
            self._print_line(
                "an earlier agent of this worker is still registered, with a later clock: waiting until it has been "
                f"silent for {SILENT:.0f} s"
            )
