"""All workers known to one router process, and the models that they serve.

All state belongs to one event loop and nothing awaits, so there are no locks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from vllama_pool.config.names import lookup_key
from vllama_pool.router.balance.lease import Lease
from vllama_pool.router.balance.speed import relative_speeds
from vllama_pool.router.balance.worker import Replica, Worker
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.registry.record import LoadReport, WorkerRecord

SPEED_UPDATE_INTERVAL = 0.5
"""Seconds between updates of the workers' relative speeds."""

MAX_KNOWN_NAMES = 4096
"""Names, served now or earlier, that are distinguished from unknown ones. The oldest are forgotten first."""


@dataclass(frozen=True, slots=True)
class Discovered:
    """A worker found by discovery, with a verified record and a resolved, pinned host."""

    record: WorkerRecord
    endpoint: Endpoint
    load: LoadReport | None = None
    """Its latest load report."""


class Pool:
    """The workers by id and by served name. A removed worker keeps its counters until its requests end.

    Discovery calls `put`, `report`, `mark_*` and `remove`; requests acquire leases.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` returns monotonic seconds."""
        self._clock = clock
        self._workers: dict[str, Worker] = {}
        self._removed: dict[str, Worker] = {}
        self._exact: dict[str, tuple[Replica, ...]] = {}
        self._by_key: dict[str, tuple[Replica, ...]] = {}
        self._known_names: dict[str, str] = {}  # served name by name, the latest last
        self._speeds_updated_at = float("-inf")

    def __repr__(self) -> str:
        return f"<Pool {len(self._workers)} workers, {len(self._by_key)} names, {self.in_flight} in flight>"

    def __len__(self) -> int:
        return len(self._workers)

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def get(self, worker_id: str) -> Worker | None:
        return self._workers.get(worker_id)

    @property
    def in_flight(self) -> int:
        """Requests of this process, including those on removed workers."""
        return sum(worker.in_flight for group in (self._workers, self._removed) for worker in group.values())

    # called by discovery

    def put(self, *found: Discovered) -> None:
        """Add workers, or renew the records of known ones. O(all workers) per call: put a whole snapshot at once."""
        now = self._clock()
        for one in found:
            self._workers[one.record.id] = self._upsert(one, now)
        self._rebuild_indexes(now)

    def remove(self, *worker_ids: str) -> None:
        """Remove workers; their requests continue. Unknown ids are ignored. O(all workers) per call."""
        removed = [self._workers.pop(worker_id) for worker_id in worker_ids if worker_id in self._workers]
        for worker in removed:
            if worker.in_flight:
                self._removed[worker.id] = worker
        if removed:
            self._rebuild_indexes(self._clock())

    def report(self, worker_id: str, load: LoadReport) -> bool:
        """Return False for an unknown worker."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return False
        now = self._clock()
        worker.report(load, now)
        self._update_speeds(now)
        return True

    def mark_up(self, worker_id: str) -> None:
        """Record a successful probe."""
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.mark_up(self._clock())

    def mark_suspect(self, worker_id: str) -> None:
        """Record a failed probe."""
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.mark_suspect(self._clock())

    def mark_down(self, worker_id: str) -> None:
        """Make the worker a last resort until its next report or successful probe, as its beats stopped."""
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.down = True

    # called for requests

    def replicas_for(self, name: str) -> tuple[Replica, ...]:
        """Return the replicas for a name, in any state: those with its exact spelling, else `replicas_by_key`."""
        return self._exact.get(name) or self.replicas_by_key(name)

    def replicas_by_key(self, name: str) -> tuple[Replica, ...]:
        """Return the replicas for a name by Ollama's rules: case-insensitive, and `:latest` is optional."""
        return self._by_key.get(lookup_key(name), ())

    def ever_served(self, name: str) -> str | None:
        """Return the model served under this name, now or earlier, in the worker's spelling."""
        return self._known_names.get(name) or self._known_names.get(lookup_key(name))

    def served(self) -> tuple[str, ...]:
        """Return the models' names, sorted, without aliases, in the first spelling by code points."""
        names: dict[str, str] = {}
        for worker in self:
            for model in worker.record.models:
                key = lookup_key(model.name)
                names[key] = min(names.get(key, model.name), model.name)
        return tuple(sorted(names.values()))

    def lease(self, worker: Worker, model: str = "") -> Lease:
        """Count a request that is sent now. `model` is the served name."""
        self._update_speeds(self._clock())
        return Lease(worker, model, self._clock)

    # internal

    def _upsert(self, found: Discovered, now: float) -> Worker:
        record = found.record
        worker = self._workers.get(record.id) or self._removed.pop(record.id, None)
        if worker is None:
            worker = Worker(record, found.endpoint, now)
        else:
            worker.renew(record, found.endpoint, now)
        if found.load is not None:
            worker.report(found.load, now)
        return worker

    def _rebuild_indexes(self, now: float) -> None:
        self._removed = {key: worker for key, worker in self._removed.items() if worker.in_flight}
        exact: dict[str, dict[str, Replica]] = {}
        by_key: dict[str, dict[str, Replica]] = {}
        for worker in self:
            for model in worker.record.models:
                replica = Replica(worker, model)
                for name in model.names:
                    exact.setdefault(name, {}).setdefault(worker.id, replica)
                    by_key.setdefault(lookup_key(name), {}).setdefault(worker.id, replica)
        self._exact = {name: tuple(replicas.values()) for name, replicas in exact.items()}
        self._by_key = {key: tuple(replicas.values()) for key, replicas in by_key.items()}
        self._record_names(self._exact)
        self._record_names(self._by_key)
        self._update_speeds(now, force=True)

    def _record_names(self, served: Mapping[str, tuple[Replica, ...]]) -> None:
        for name, replicas in served.items():
            self._known_names.pop(name, None)
            self._known_names[name] = replicas[0].model.name
        while len(self._known_names) > MAX_KNOWN_NAMES:
            del self._known_names[next(iter(self._known_names))]

    def _update_speeds(self, now: float, *, force: bool = False) -> None:
        """Set the workers' speeds, each relative to the workers of the same first model."""
        if not force and now - self._speeds_updated_at < SPEED_UPDATE_INTERVAL:
            return
        self._speeds_updated_at = now
        groups: dict[str, list[Worker]] = {}
        for worker in self:
            if worker.record.models:
                groups.setdefault(lookup_key(worker.record.models[0].name), []).append(worker)
        for workers in groups.values():
            rates = [worker.rate for worker in workers]
            declared = [worker.record.speed for worker in workers]
            for worker, speed in zip(workers, relative_speeds(rates, declared, now), strict=True):
                worker.speed = speed
