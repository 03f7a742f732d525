"""Sends the requests of a crashed engine to other workers one at a time, so that a second crash has one suspect.

A trial lasts until its request's answer begins, fails or takes MAX_TRIAL. Requests of a crash wait here before they are
sent again; others pass. Routers exclude each other through the registry, as far as it answers.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from vllama_pool.router.balance.worker import Worker
from vllama_pool.workers.registry.client import RegistryUnavailable

POLL = 0.02
"""Seconds."""
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
        self.ended = False
        self._release = release

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            self._release(self)


class Trials:
    """Owns the trials of one router process, at most one per worker."""

    def __init__(self, store: TrialStore, start: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        """`start` runs a coroutine in the background."""
        self._store = store
        self._start = start
        self._by_worker: dict[str, Trial] = {}

    async def begin(self, worker: Worker) -> Trial | None:
        """Wait for the worker's turn. Return None if the worker is gone by then: choose another one."""
        chosen = asyncio.get_running_loop().time()
        exit_seen = worker.exit_seen
        trial = Trial(lambda trial: self._end(worker.id, trial))
        while worker.id in self._by_worker:
            if asyncio.get_running_loop().time() - chosen > MAX_WAIT or not worker.is_open:
                break
            await asyncio.sleep(POLL)
        if not worker.is_open or worker.exit_seen != exit_seen:
            return None
        self._by_worker.setdefault(worker.id, trial)
        try:
            while not await self._allowed(worker.id, trial):
                if asyncio.get_running_loop().time() - chosen > MAX_WAIT:
                    break
                await asyncio.sleep(POLL)
                if not worker.is_open:
                    break
        except BaseException:
            trial.end()
            raise
        if not worker.is_open or worker.exit_seen != exit_seen:
            trial.end()
            return None
        self._start(self._watch(trial))
        return trial

    async def _allowed(self, worker_id: str, trial: Trial) -> bool:
        try:
            return await self._store.begin_trial(worker_id, trial.id, MAX_TRIAL)
        except RegistryUnavailable:
            return True

    async def _watch(self, trial: Trial) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + MAX_TRIAL
        while not trial.ended and loop.time() < deadline:
            if trial.begun():
                trial.on_begun()
                break
            await asyncio.sleep(POLL)
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
