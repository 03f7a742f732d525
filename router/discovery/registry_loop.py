"""Keeps the pool in step with the registry, in the background: nothing here is on a request's path.

Two loops. One listens to the channel, so that joins, leaves and loads arrive within milliseconds. One polls
twice a second, which repairs whatever the first has missed, and notices deaths. What both see is judged by
`Membership`; while the registry is away the pool simply keeps what it has.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Protocol

from vllama_pool.router.balance.pool import Discovered
from vllama_pool.router.discovery.membership import Liveness, Membership, ProbeAnswer, WorkerSink
from vllama_pool.router.discovery.trust import RecordChecker
from vllama_pool.workers.registry.client import Registry, RegistryUnavailable
from vllama_pool.workers.registry.keys import ROUTER_TTL
from vllama_pool.workers.registry.messages import (
    Beat,
    Down,
    Event,
    ModelChanged,
    ModelSeen,
    Snapshot,
    Subscribed,
    Up,
    Version,
)

POLL_INTERVAL = 0.5
"""Seconds, give or take a fifth, so that many routers do not poll in step."""
WAKE_JITTER = 0.05
"""Longest wait, in seconds, before a poll that an event asked for: all routers have seen that event."""
RECONNECT = (0.1, 0.5)
"""Seconds between two attempts to listen."""
ASK_DEAD_EVERY = 2.0
"""Seconds between two questions to a worker that is out."""

_log = logging.getLogger(__name__)

Ask = Callable[[Discovered], Awaitable[ProbeAnswer]]
"""Asks a worker itself whether it is well. Bounded in time, about a second; raises nothing."""


class ModelListener(Protocol):
    """Who keeps the virtual models. What raises does so with RegistryUnavailable."""

    async def polled(self, version: str) -> None:
        """A poll has succeeded, and the registry's virtual models are at this version."""

    async def changed(self, event: ModelChanged) -> None: ...

    def seen(self, event: ModelSeen) -> None: ...


class RouterCount:
    """How many router processes there are. A fall is believed only after ROUTER_TTL: a registry that was
    emptied has not heard of the others yet, and too low a count would let every bound grow."""

    def __init__(self) -> None:
        self.value = 1
        self._lower_since: float | None = None

    def seen(self, count: int, now: float) -> None:
        if count >= self.value:
            self.value, self._lower_since = count, None
        elif self._lower_since is None:
            self._lower_since = now
        elif now - self._lower_since >= ROUTER_TTL:
            self.value, self._lower_since = max(count, 1), None


class Discovery:
    """One router process's view of the registry. `run` is the only task its owner needs."""

    def __init__(
        self,
        registry: Registry,
        record_checker: RecordChecker,
        pool: WorkerSink,
        ask: Ask,
        *,
        clock: Callable[[], float] = time.monotonic,
        router_id: str | None = None,
        models: ModelListener | None = None,
    ) -> None:
        self._registry = registry
        self._checker = record_checker
        self._ask = ask
        self._clock = clock
        self._router_id = router_id or secrets.token_hex(8)
        self._models = models
        self._membership = Membership(pool)
        self._routers = RouterCount()
        self._wake = asyncio.Event()
        self._first = asyncio.Event()
        self._questions: dict[str, asyncio.Task[None]] = {}
        self._asked_at: dict[str, float] = {}
        self._complaint = ""

    @property
    def registry_up(self) -> bool:
        """Whether the registry answered the last poll."""
        return self._membership.feed_up

    @property
    def router_count(self) -> int:
        """Router processes of this fleet, this one included; at least 1."""
        return self._routers.value

    @property
    def refusals(self) -> int:
        """Records that were refused so far, for an alarm."""
        return self._checker.refusals

    def refresh(self) -> None:
        """Look at the registry soon: something here seems to be out of date."""
        self._wake.set()

    def liveness(self, worker_id: str) -> Liveness | None:
        """How a registered worker stands; None if it is not known."""
        member = self._membership.get(worker_id)
        return member.liveness if member is not None else None

    async def wait_first(self, timeout: float) -> bool:
        """Wait for the first look at the registry. False if there was none within `timeout` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._first.wait()
        return self._first.is_set()

    async def run(self) -> None:
        """Follow the registry until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(), name="registry events")
                tasks.create_task(self._poll(tasks), name="registry polls")
        finally:
            with suppress(RegistryUnavailable, TimeoutError):
                async with asyncio.timeout(0.5):
                    await self._registry.retire_router(self._router_id)

    # --- listening ---

    async def _listen(self) -> None:
        while True:
            with suppress(RegistryUnavailable):  # the poll says so
                async with aclosing(self._registry.events()) as events:
                    async for event in events:
                        if await self._heard(event):
                            self._wake.set()
            await asyncio.sleep(random.uniform(*RECONNECT))

    async def _heard(self, event: Event) -> bool:
        """Take an event. True if a poll must show what it means."""
        match event:
            case Beat(worker_id, report):
                return self._membership.beat(worker_id, report, self._clock())
            case Up(worker_id, version, report, envelope):
                found = await self._checker.check(worker_id, envelope)
                return self._membership.up(version, worker_id, found, report, self._clock())
            case Down(worker_id, version, generation):
                return self._membership.down(version, worker_id, generation)
            case Subscribed():
                return True
            case ModelChanged() | ModelSeen():
                if self._models is not None:
                    await self._heard_of_model(event, self._models)
                return False

    async def _heard_of_model(self, event: ModelChanged | ModelSeen, models: ModelListener) -> None:
        if isinstance(event, ModelSeen):
            models.seen(event)
            return
        with suppress(RegistryUnavailable):  # the poll says so
            await models.changed(event)

    # --- polling ---

    async def _poll(self, tasks: asyncio.TaskGroup) -> None:
        full = True
        while True:
            asked = self._membership.version
            self._wake.clear()
            try:
                snapshot = await self._registry.snapshot(None if full else asked, router=self._router_id)
            except RegistryUnavailable as error:
                self._membership.lost()
                self._complain(str(error))
                full = True
            else:
                self._complain("")
                records = snapshot.records
                found = await self._checker.check_all(records) if records is not None else {}
                full = self._saw(asked, snapshot, found) or self._checker.pending
                await self._poll_models(snapshot.models)
                self._first.set()
            self._ask_doubted(tasks)
            full = await self._pause() or full

    async def _poll_models(self, version: str) -> None:
        """What fails here must not look as if the workers' records could not be read."""
        if self._models is not None:
            with suppress(RegistryUnavailable):  # the next poll tries again
                await self._models.polled(version)

    def _saw(self, asked: Version, snapshot: Snapshot, found: dict[str, Discovered]) -> bool:
        now = self._clock()
        self._routers.seen(snapshot.routers, now)
        again = self._membership.polled(asked, snapshot, found, now)
        if again:
            self._wake.set()
        return again

    async def _pause(self) -> bool:
        """Wait until the next poll is due. True if something has asked for it."""
        try:
            async with asyncio.timeout(POLL_INTERVAL * random.uniform(0.8, 1.2)):
                await self._wake.wait()
        except TimeoutError:
            return False
        await asyncio.sleep(random.uniform(0, WAKE_JITTER))
        return True

    # --- asking the doubted ---

    def _ask_doubted(self, tasks: asyncio.TaskGroup) -> None:
        now = self._clock()
        doubted = {found.record.id: found for found in self._membership.to_probe}
        self._asked_at = {key: at for key, at in self._asked_at.items() if key in doubted}
        for worker_id, found in doubted.items():
            out = self.liveness(worker_id) is Liveness.DOWN
            waited = now - self._asked_at.get(worker_id, float("-inf"))
            if worker_id in self._questions or (out and waited < ASK_DEAD_EVERY):
                continue
            self._asked_at[worker_id] = now
            self._questions[worker_id] = tasks.create_task(self._question(worker_id, found))

    async def _question(self, worker_id: str, found: Discovered) -> None:
        try:
            answer = await self._ask(found)
        finally:
            del self._questions[worker_id]
        self._membership.answered(worker_id, answer, self._clock())

    def _complain(self, complaint: str) -> None:
        """Log when the registry goes away and when it is back, once each."""
        if complaint and not self._complaint:
            _log.warning("serving from what is known: %s", complaint)
        elif self._complaint and not complaint:
            _log.warning("the registry is back")
        self._complaint = complaint
