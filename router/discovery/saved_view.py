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
    """The file as one router process uses it. The processes of a `vllama serve` share it, and one of them writes it."""

    def __init__(
        self,
        file: ViewFile,
        *,
        run: str = "",
        writes: bool = True,
        restarted: bool = False,
        interval: float = SAVE_EVERY,
    ) -> None:
        """`run`: id of the `vllama serve`. `restarted`: this process replaces an earlier one of it."""
        self._file = file
        self._run = run
        self._writes = writes
        self._restarted = restarted
        self._interval = interval

    async def load(self, checker: RecordChecker) -> Restored | None:
        """Return the workers whose records still pass all checks; None without any.

        A view of the same run is for restarted processes only: at the first start it proves that the registry answers,
        though not yet to this process.
        """
        view = await asyncio.to_thread(self._file.load)
        if view is None or (self._run and view.run == self._run and not self._restarted):
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
        """Save each changed view that has workers, until it is cancelled. Does nothing if another process writes."""
        if not self._writes:
            return
        before: object = None
        while True:
            await asyncio.sleep(self._interval)
            now = current()
            if now is None or not now[0] or now == before:
                continue
            if await asyncio.to_thread(self._file.save, *now, self._run):
                before = now
