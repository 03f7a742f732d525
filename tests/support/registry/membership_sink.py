"""A WorkerSink for tests of discovery."""

from __future__ import annotations

from vllama_pool.router.balance.pool import Discovered
from vllama_pool.workers.registry.record import LoadReport


class Recorder:
    """Records what membership reports."""

    def __init__(self) -> None:
        self.known: dict[str, Discovered] = {}
        self.down: set[str] = set()
        self.suspect: set[str] = set()
        self.loads: dict[str, LoadReport] = {}
        self.puts = 0

    def put(self, *found: Discovered) -> None:
        for one in found:
            self.known[one.record.id] = one
            self.down.discard(one.record.id)
        self.puts += 1

    def remove(self, *worker_ids: str) -> None:
        for worker_id in worker_ids:
            del self.known[worker_id]
            self.down.discard(worker_id)

    def report(self, worker_id: str, load: LoadReport) -> None:
        self.loads[worker_id] = load
        self.down.discard(worker_id)
        self.suspect.discard(worker_id)

    def mark_up(self, worker_id: str) -> None:
        self.down.discard(worker_id)
        self.suspect.discard(worker_id)

    def mark_suspect(self, worker_id: str) -> None:
        self.suspect.add(worker_id)

    def mark_down(self, worker_id: str) -> None:
        self.down.add(worker_id)
