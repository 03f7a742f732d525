"""The static workers of the live routing table, each watched by a task."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import httpx

from vllama_pool.router.discovery.membership import WorkerSink
from vllama_pool.router.discovery.static_watch import StaticWatch
from vllama_pool.router.discovery.trust import Endpoints

if TYPE_CHECKING:
    from vllama_pool.config.routing.schema import WorkerEntry

HANDOVER = 0.3
"""Seconds for the first probe of new workers before others leave."""


class StaticWorkers:
    """Watches the static workers of the live routing table."""

    def __init__(
        self,
        workers: Iterable[WorkerEntry],
        pool: WorkerSink,
        client: httpx.AsyncClient,
        endpoints: Endpoints,
        *,
        key: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._collaborators = (pool, client, endpoints, key, clock)
        self._watches: dict[str, StaticWatch] = {}
        self._leaving: dict[str, StaticWatch] = {}
        self._tasks: dict[StaticWatch, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self.apply(workers)

    def __repr__(self) -> str:
        return f"<StaticWorkers {len(self._watches)} watched, {len(self._leaving)} leaving>"

    async def run(self) -> None:
        async with asyncio.TaskGroup() as self._group:
            for watch in self._watches.values():
                self._start(watch)
            self._retire_later([])
            await asyncio.get_running_loop().create_future()  # `apply` adds tasks

    def apply(self, workers: Iterable[WorkerEntry]) -> None:
        """Watch these from now on. Workers of the same name and URL keep their health, requests and abilities.

        Others leave the pool when those that are new have been probed, or after HANDOVER, so that a moved worker leaves
        no gap. Their requests continue.
        """
        wanted = {worker.label: worker for worker in workers}
        for name, watch in list(self._leaving.items()):
            if name not in self._watches and watch.serves(wanted.get(name)):
                self._watches[name] = self._leaving.pop(name)
        for name, watch in list(self._watches.items()):
            worker = wanted.get(name)
            if worker is not None and watch.serves(worker):
                watch.update(worker)
            else:
                self._cancel(self._leaving.pop(name, None))
                self._leaving[name] = self._watches.pop(name)
        self._retire_later([self._add(worker) for name, worker in wanted.items() if name not in self._watches])

    def left_out(self, workers: Iterable[WorkerEntry]) -> tuple[str, ...]:
        """Return the ids of watched workers that are not among these."""
        return tuple(watch.id for watch in self._watches.values() if not any(map(watch.serves, workers)))

    def adds(self, workers: Iterable[WorkerEntry]) -> bool:
        """True if these contain a worker that is not watched."""
        watches = self._watches
        return any(not (watch := watches.get(one.label)) or not watch.serves(one) for one in workers)

    def _add(self, worker: WorkerEntry) -> StaticWatch:
        replaced = self._leaving.get(worker.label)
        generation = replaced.generation + 1 if replaced is not None else 1
        watch = StaticWatch(worker, *self._collaborators, generation=generation)
        self._watches[worker.label] = watch
        if replaced is None:
            watch.mark_unreached()
        if self._group is not None:
            self._start(watch)
        return watch

    def _start(self, watch: StaticWatch) -> None:
        assert self._group is not None
        self._tasks[watch] = self._group.create_task(watch.run(), name=f"static worker {watch.worker.label}")

    def _cancel(self, watch: StaticWatch | None) -> None:
        if watch is not None and (task := self._tasks.pop(watch, None)) is not None:
            task.cancel()

    def _retire_later(self, added: Sequence[StaticWatch]) -> None:
        if self._group is not None and self._leaving:
            self._group.create_task(self._retire(dict(self._leaving), added), name="static workers that leave")

    async def _retire(self, leaving: Mapping[str, StaticWatch], added: Sequence[StaticWatch]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HANDOVER):
                for watch in added:
                    await watch.probed.wait()
        for name, watch in leaving.items():
            if self._leaving.get(name) is not watch:
                continue
            del self._leaving[name]
            self._cancel(watch)
            successor = self._watches.get(name)
            if successor is None:
                self._pool.remove(watch.id)
            elif not successor.up:
                successor.mark_unreached()
