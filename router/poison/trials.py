"""Sends the requests of a crashed engine to other workers one at a time, so that a second crash has one suspect.

A trial lasts until its request's answer begins, fails or takes MAX_TRIAL. Requests of a crash wait here before they are
sent again; others pass. Routers exclude each other through the registry, as far as it answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from vllama_pool.router.balance.worker import Worker
from vllama_pool.workers.registry.client import RegistryUnavailable

LOOK = 0.02
"""Seconds between two looks at what nobody announces: the worker's state, another router's trial, an answer's begin."""
MAX_TRIAL = 5.0
"""Seconds for an answer to begin."""
MAX_WAIT = 60.0
"""Seconds that a request waits for its trial before it is sent without one."""


class TrialStore(Protocol):
    async def begin_trial(self, worker_id: str, owner: str, seconds: float) -> bool: ...

    async def end_trial(self, worker_id: str, owner: str) -> None: ...


class Trial:
    """One suspect request on one worker. Its owner calls `end` on every path; it is idempotent."""

    def __init__(self, release: Callable[[Trial], None]) -> None:
        self.id = secrets.token_hex(8)
        self.begun: Callable[[], bool] = lambda: False
        """True once the worker's answer has begun. Set by the owner."""
        self.on_begun: Callable[[], None] = lambda: None
        self._ended = asyncio.Event()
        self._release = release

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def end(self) -> None:
        if not self.ended:
            self._ended.set()
            self._release(self)

    async def ends_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        return self.ended


class Trials:
    """Owns the trials of one router process, at most one per worker."""

    def __init__(self, store: TrialStore, start: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        """`start` runs a coroutine in the background."""
        self._store = store
        self._start = start
        self._by_worker: dict[str, Trial] = {}

    async def begin(self, worker: Worker) -> Trial | None:
        """Wait for the worker's turn. Return None if the worker is gone by then: choose another one."""
        loop, exit_seen = asyncio.get_running_loop(), worker.exit_seen
        deadline = loop.time() + MAX_WAIT

        def is_there() -> bool:
            return worker.is_open and worker.exit_seen == exit_seen

        while (present := self._by_worker.get(worker.id)) is not None and is_there() and loop.time() < deadline:
            await present.ends_within(LOOK)
        if not is_there():
            return None
        trial = Trial(lambda trial: self._end(worker.id, trial))
        self._by_worker.setdefault(worker.id, trial)
        begins = False
        try:
            begins = await self._is_granted(worker.id, trial, is_there, deadline)
        finally:
            if not begins:
                trial.end()
        if not begins:
            return None
        self._start(self._watch(trial))
        return trial

    async def _is_granted(self, worker_id: str, trial: Trial, is_there: Callable[[], bool], deadline: float) -> bool:
        """Wait until no other router has a trial there, at most until the deadline. Return False if it is gone."""
        loop = asyncio.get_running_loop()
        while is_there():
            if await self._allowed(worker_id, trial) or loop.time() >= deadline:
                return is_there()
            await asyncio.sleep(LOOK)
        return False

    async def _allowed(self, worker_id: str, trial: Trial) -> bool:
        try:
            return await self._store.begin_trial(worker_id, trial.id, MAX_TRIAL)
        except RegistryUnavailable:
            return True

    async def _watch(self, trial: Trial) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + MAX_TRIAL
        while not await trial.ends_within(LOOK) and loop.time() < deadline:
            if trial.begun():
                trial.on_begun()
                break
        trial.end()

    def _end(self, worker_id: str, trial: Trial) -> None:
        if self._by_worker.get(worker_id) is trial:
            del self._by_worker[worker_id]
        self._start(self._release(worker_id, trial))

    async def _release(self, worker_id: str, trial: Trial) -> None:
        try:
            await self._store.end_trial(worker_id, trial.id)
        except RegistryUnavailable:
            return  # it ends by itself
