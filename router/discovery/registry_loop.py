"""Follows the registry in the background and keeps the pool up to date.

One loop listens to the channel, so that changes arrive within milliseconds. The other polls twice a second, repairs
missed messages and detects dead workers. During an outage of the registry the pool stays as it is.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Protocol

from vllama_pool.router.balance.pool import Discovered
from vllama_pool.router.discovery.drains import Drains
from vllama_pool.router.discovery.membership import Liveness, Membership, ProbeAnswer, WorkerSink
from vllama_pool.router.discovery.saved_view import SavedView
from vllama_pool.router.discovery.trust import RecordChecker
from vllama_pool.workers.registry.client import Registry, RegistryUnavailable
from vllama_pool.workers.registry.messages import (
    Event,
    ModelAck,
    ModelChanged,
    PoisonNews,
    Snapshot,
    Subscribed,
    Version,
    WantChanged,
    WorkerBeat,
    WorkerDown,
    WorkerUp,
)
from vllama_pool.workers.registry.view_file import SavedWorker

POLL_INTERVAL = 0.5
"""Seconds, with 20 % jitter."""
RETRY_INTERVAL = 0.2
"""The same after a poll that failed. With the time-out of a connection, a registry is read within 1 s of its return."""
WAKE_JITTER = 0.05
"""Maximum delay, in seconds, of a poll that an event triggers: every router gets that event."""
RECONNECT = (0.1, 0.5)
"""Range of the pause, in seconds, before listening again."""
MAX_PROBLEMS = 8
"""Problems logged in one outage."""
PROBE_DOWN_EVERY = 2.0
"""Seconds."""

_log = logging.getLogger(__name__)

Probe = Callable[[Discovered], Awaitable[ProbeAnswer]]
"""Takes about a second at most. Raises nothing."""


class ModelListener(Protocol):
    """Follows the virtual models. Coroutines may raise RegistryUnavailable."""

    async def polled(self, version: str) -> None:
        """`version` is that of the virtual models."""

    async def changed(self, event: ModelChanged) -> None: ...

    def acknowledged(self, event: ModelAck) -> None: ...


class PoisonListener(Protocol):
    """Follows what routers tell each other about crashed engines."""

    def heard(self, envelope: bytes) -> None: ...

    async def catch_up(self) -> None:
        """Read what was stored before. Raises RegistryUnavailable."""


class Discovery:
    """Runs both loops for one router process."""

    def __init__(
        self,
        registry: Registry,
        record_checker: RecordChecker,
        pool: WorkerSink,
        probe: Probe,
        *,
        clock: Callable[[], float] = time.monotonic,
        router_id: str | None = None,
        models: ModelListener | None = None,
        drains: Drains | None = None,
        saved: SavedView | None = None,
        poison: PoisonListener | None = None,
    ) -> None:
        self._registry = registry
        self._checker = record_checker
        self._probe = probe
        self._clock = clock
        self._router_id = router_id or secrets.token_hex(8)
        self._models = models
        self._drains = drains
        self._poison = poison
        self._membership = Membership(pool)
        self._wake = asyncio.Event()
        self._polled = False
        self._read = asyncio.Event()
        self._saved = saved
        self._restored = ""
        """Describes the saved view in use; "" for none."""
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._probed_at: dict[str, float] = {}
        self._problem = ""
        self._outage: set[str] = set()
        """Problems logged since the registry last answered."""

    @property
    def registry_up(self) -> bool:
        return self._membership.feed_up

    @property
    def registry_problem(self) -> str:
        """Why the last poll failed; empty while the registry can be used."""
        return f"{self._problem}; {self._restored}" if self._problem and self._restored else self._problem

    @property
    def polled(self) -> bool:
        """True after the first successful poll."""
        return self._polled

    @property
    def restored(self) -> bool:
        """True from the use of a saved view until the first successful poll."""
        return bool(self._restored)

    @property
    def known(self) -> bool:
        """True once workers come from the registry or from a saved view."""
        return self._read.is_set()

    @property
    def refusals(self) -> int:
        """Refused records so far."""
        return self._checker.refusals

    def refresh(self) -> None:
        self._wake.set()

    def liveness(self, worker_id: str) -> Liveness | None:
        """Return None for an unknown worker."""
        member = self._membership.get(worker_id)
        return member.liveness if member is not None else None

    async def wait_first(self, timeout: float) -> bool:
        """Wait until the workers are `known`. Return False after `timeout` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._read.wait()
        return self.known

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(), name="registry events")
                tasks.create_task(self._poll(tasks), name="registry polls")
                if self._saved is not None:
                    tasks.create_task(self._saved.run(self._current), name="saved view")
        finally:
            with suppress(RegistryUnavailable, TimeoutError):
                async with asyncio.timeout(0.5):
                    await self._registry.retire_router(self._router_id)

    # --- listening ---

    async def _listen(self) -> None:
        while True:
            with suppress(RegistryUnavailable):  # the poll loop logs it
                async with aclosing(self._registry.events()) as events:
                    async for event in events:
                        if await self._handle(event):
                            self._wake.set()
            await asyncio.sleep(random.uniform(*RECONNECT))

    async def _handle(self, event: Event) -> bool:
        """Return True if a poll is needed."""
        match event:
            case WorkerBeat(worker_id, beat):
                return self._membership.beat_received(worker_id, beat, self._clock())
            case WorkerUp(worker_id, version, beat, envelope):
                found = await self._checker.check(worker_id, envelope)
                return self._membership.joined(version, worker_id, found, beat, self._clock())
            case WorkerDown(worker_id, version, generation):
                return self._membership.left(version, worker_id, generation)
            case Subscribed():
                if self._poison is not None:
                    with suppress(RegistryUnavailable):  # the next subscription tries again
                        await self._poison.catch_up()
                return True
            case ModelChanged() | ModelAck():
                if self._models is not None:
                    await self._handle_model(event, self._models)
                return False
            case PoisonNews(envelope):
                if self._poison is not None:
                    self._poison.heard(envelope)
                return False
            case WantChanged():
                if self._drains is not None:
                    self._drains.changed(event)
                return False

    async def _handle_model(self, event: ModelChanged | ModelAck, models: ModelListener) -> None:
        if isinstance(event, ModelAck):
            models.acknowledged(event)
            return
        with suppress(RegistryUnavailable):  # the poll loop logs it
            await models.changed(event)

    # --- polling ---

    async def _poll(self, tasks: asyncio.TaskGroup) -> None:
        full = True
        while True:
            since = self._membership.version
            self._wake.clear()
            try:
                snapshot = await self._registry.snapshot(None if full else since, router=self._router_id)
            except RegistryUnavailable as error:
                self._membership.poll_failed()
                self._log_outage(str(error))
                await self._restore()
                full = True
            else:
                self._log_outage("")
                records = snapshot.records
                found = await self._checker.check_all(records) if records is not None else {}
                if self._drains is not None:
                    self._drains.polled(snapshot.wants)
                full = self._apply(since, snapshot, found) or self._checker.pending
                await self._poll_models(snapshot.models)
                await self._restore_drains(snapshot.wants)
                self._polled, self._restored = True, ""
                self._read.set()
            self._start_probes(tasks)
            full = await self._pause() or full

    async def _restore(self) -> None:
        """Use the saved view if the registry has not answered since the start."""
        if self._saved is None or self._polled or self._restored:
            return
        saved = await self._saved.load(self._checker)
        if saved is None:
            return
        if self._drains is not None:
            self._drains.polled(saved.wants)
        self._membership.restore(*saved.workers)
        self._restored = saved.text
        _log.warning("%s; they get requests once they answer", saved.text)
        self._read.set()

    def _current(self) -> tuple[dict[str, SavedWorker], dict[str, bytes]] | None:
        """Return what to save; None while the registry is away or does not hold all members."""
        if not self.registry_up:
            return None
        workers: dict[str, SavedWorker] = {}
        for worker_id, (found, load) in self._membership.found.items():
            envelope = self._checker.envelope(found)
            if envelope is None:
                return None
            workers[worker_id] = SavedWorker(envelope, load.state)
        return workers, self._drains.entries if self._drains is not None else {}

    async def _poll_models(self, version: str) -> None:
        """A failure does not count as a failed poll of the workers."""
        if self._models is not None:
            with suppress(RegistryUnavailable):  # the next poll tries again
                await self._models.polled(version)

    async def _restore_drains(self, wants: Mapping[str, bytes]) -> None:
        """A failure does not count as a failed poll of the workers."""
        if self._drains is not None:
            with suppress(RegistryUnavailable):  # the next poll tries again
                await self._drains.restore(wants)

    def _apply(self, since: Version, snapshot: Snapshot, found: dict[str, Discovered]) -> bool:
        again = self._membership.polled(since, snapshot, found, self._clock())
        if again:
            self._wake.set()
        return again

    async def _pause(self) -> bool:
        """Wait until the next poll is due. Return True if it was requested."""
        try:
            interval = POLL_INTERVAL if self.registry_up else RETRY_INTERVAL
            async with asyncio.timeout(interval * random.uniform(0.8, 1.2)):
                await self._wake.wait()
        except TimeoutError:
            return False
        await asyncio.sleep(random.uniform(0, WAKE_JITTER))
        return True

    # --- probing ---

    def _start_probes(self, tasks: asyncio.TaskGroup) -> None:
        now = self._clock()
        to_probe = {found.record.id: found for found in self._membership.to_probe}
        self._probed_at = {key: at for key, at in self._probed_at.items() if key in to_probe}
        for worker_id, found in to_probe.items():
            down = self.liveness(worker_id) is Liveness.DOWN
            waited = now - self._probed_at.get(worker_id, float("-inf"))
            if worker_id in self._probes or (down and waited < PROBE_DOWN_EVERY):
                continue
            self._probed_at[worker_id] = now
            self._probes[worker_id] = tasks.create_task(self._run_probe(worker_id, found))

    async def _run_probe(self, worker_id: str, found: Discovered) -> None:
        try:
            answer = await self._probe(found)
        finally:
            del self._probes[worker_id]
        self._membership.probed(worker_id, answer, self._clock())

    def _log_outage(self, problem: str) -> None:
        """Log each problem of an outage once. An empty `problem` means usable."""
        self._problem = problem
        if problem and problem not in self._outage and len(self._outage) < MAX_PROBLEMS:
            self._outage.add(problem)
            _log.warning("the registry cannot be used, workers stay as last known: %s", problem)
        elif self._outage and not problem:
            self._outage.clear()
            _log.warning("the registry can be used again")
