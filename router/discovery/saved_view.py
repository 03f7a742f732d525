"""Keeps the view of the registry on disk current, and reads it when the registry is away at the start."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vllama_pool.router.balance.pool import Discovered
from vllama_pool.router.discovery.trust import RecordChecker
from vllama_pool.workers.registry.record import LoadReport
from vllama_pool.workers.registry.view_file import SAVE_EVERY, SavedWorker, ViewFile

Current = Callable[[], tuple[Mapping[str, SavedWorker], Mapping[str, bytes]] | None]
"""Returns the workers and the drains; None while they are not known well."""


@dataclass(frozen=True, slots=True)
class Restored:
    workers: tuple[Discovered, ...]
    """Usable ones."""
    wants: Mapping[str, bytes]
    """Unverified."""
    text: str
    """Says whose view this is, on one line."""


class SavedView:
    """The file of one router process. Other processes of this machine share it."""

    def __init__(self, file: ViewFile, *, interval: float = SAVE_EVERY) -> None:
        self._file = file
        self._interval = interval

    async def load(self, checker: RecordChecker) -> Restored | None:
        """Return the workers whose records still pass all checks; None without any."""
        view = await asyncio.to_thread(self._file.load)
        if view is None:
            return None
        envelopes = {worker_id: saved.envelope for worker_id, saved in view.workers.items()}
        found = await checker.check_all(envelopes)
        workers = tuple(
            Discovered(one.record, one.endpoint, LoadReport(state=view.workers[worker_id].state))
            for worker_id, one in found.items()
        )
        if not workers:
            return None
        saved = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(view.saved))
        return Restored(workers, view.wants, f"workers are as this machine saved them at {saved}: {len(workers)}")

    async def run(self, current: Current) -> None:
        """Save each changed view that has workers. Runs until it is cancelled."""
        before: object = None
        while True:
            await asyncio.sleep(self._interval)
            now = current()
            if now is None or not now[0] or now == before:
                continue
            if await asyncio.to_thread(self._file.save, *now):
                before = now
