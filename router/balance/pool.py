"""All workers that one router process knows, and what they serve.

Discovery drives it (`put`, `report`, `mark_down`, `mark_up`, `mark_suspect`, `remove`); requests take leases.
Everything happens on one event loop and nothing here waits, so there are no locks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from vllama_pool.config.names import lookup_key
from vllama_pool.router.balance.lease import Lease
from vllama_pool.router.balance.speed import relative
from vllama_pool.router.balance.worker import Replica, Worker
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.registry.record import Load, WorkerRecord

WEIGH_EVERY = 0.5
"""Seconds between two looks at how fast the workers are relative to each other."""

REMEMBERED = 4096
"""Names of models without a worker that are still told from names nobody knows; those that are served count too."""


@dataclass(frozen=True, slots=True)
class Discovered:
    """A worker as discovery found it: its record was checked, its host resolved and pinned."""

    record: WorkerRecord
    endpoint: Endpoint
    load: Load | None = None
    """Its latest report, where one came with the record."""


class Pool:
    """The workers by id and by served name. Workers keep their counters for as long as they are known or busy."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives monotonic seconds."""
        self._clock = clock
        self._workers: dict[str, Worker] = {}
        self._leaving: dict[str, Worker] = {}
        self._exact: dict[str, tuple[Replica, ...]] = {}
        self._by_key: dict[str, tuple[Replica, ...]] = {}
        self._ever: dict[str, str] = {}  # the latest last
        self._weighed_at = float("-inf")

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
        """Requests of this process in all workers, those that have left included."""
        return sum(worker.in_flight for group in (self._workers, self._leaving) for worker in group.values())

    # what discovery tells

    def put(self, *found: Discovered) -> None:
        """Add workers, or renew their records. Known ones keep their counters, health and speed.

        Costs O(all workers) per call: put a whole snapshot at once.
        """
        now = self._clock()
        for one in found:
            self._workers[one.record.id] = self._renewed(one, now)
        self._index(now)

    def remove(self, *worker_ids: str) -> None:
        """Remove workers; their running requests go on. Unknown ids are ignored. Costs O(all workers) per call."""
        removed = [self._workers.pop(worker_id) for worker_id in worker_ids if worker_id in self._workers]
        for worker in removed:
            if worker.in_flight:
                self._leaving[worker.id] = worker
        if removed:
            self._index(self._clock())

    def report(self, worker_id: str, load: Load) -> bool:
        """A beat that moved: the worker's agent lives, and says this. False if the worker is not known."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return False
        now = self._clock()
        worker.report(load, now)
        self._weigh(now)
        return True

    def mark_up(self, worker_id: str) -> None:
        """This router has just reached the worker itself (a probe): stronger than a beat."""
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.mark_up(self._clock())

    def mark_suspect(self, worker_id: str) -> None:
        """This router could not reach the worker (a probe, not a request: those tell through their lease)."""
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.mark_suspect(self._clock())

    def mark_down(self, worker_id: str) -> None:
        """Its beats have stopped. It stays known, and is asked only when nobody else is left, until the next
        report, probe or record."""
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.down = True

    # what requests need

    def workers_for(self, name: str) -> tuple[Replica, ...]:
        """The workers that serve a name, in any state: by its exact spelling, else by Ollama's rules (case does
        not matter, `:latest` may be left out). Empty if nobody does."""
        return self._exact.get(name) or self.replicas(name)

    def replicas(self, name: str) -> tuple[Replica, ...]:
        """The workers that serve a name in any spelling: what the catalogue shows as one model."""
        return self._by_key.get(lookup_key(name), ())

    def ever_served(self, name: str) -> str | None:
        """The model that a worker last served by this name since this process began, as the worker spelled it. The
        latest REMEMBERED names are known."""
        return self._ever.get(name) or self._ever.get(lookup_key(name))

    def served(self) -> tuple[str, ...]:
        """The models' names as the workers spell them, sorted, each once. Further served names of a model are
        found by `workers_for` and not listed."""
        names: dict[str, str] = {}
        for worker in self:
            for model in worker.record.models:
                names.setdefault(lookup_key(model.name), model.name)
        return tuple(sorted(names.values()))

    def lease(self, worker: Worker, model: str = "") -> Lease:
        """Take a place in a worker for a request that is sent now. `model` is the served name asked for."""
        self._weigh(self._clock())
        return Lease(worker, model, self._clock)

    # inside

    def _renewed(self, found: Discovered, now: float) -> Worker:
        record = found.record
        worker = self._workers.get(record.id) or self._leaving.pop(record.id, None)
        if worker is None:
            worker = Worker(record, found.endpoint, now)
        else:
            worker.renew(record, found.endpoint, now)
        if found.load is not None:
            worker.report(found.load, now)
        return worker

    def _index(self, now: float) -> None:
        self._leaving = {key: worker for key, worker in self._leaving.items() if worker.in_flight}
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
        self._remember(self._exact)
        self._remember(self._by_key)
        self._weigh(now, force=True)

    def _remember(self, served: Mapping[str, tuple[Replica, ...]]) -> None:
        for name, replicas in served.items():
            self._ever.pop(name, None)
            self._ever[name] = replicas[0].model.name
        while len(self._ever) > REMEMBERED:
            del self._ever[next(iter(self._ever))]

    def _weigh(self, now: float, *, force: bool = False) -> None:
        """Set the workers' speeds, each relative to those that serve the same first model."""
        if not force and now - self._weighed_at < WEIGH_EVERY:
            return
        self._weighed_at = now
        groups: dict[str, list[Worker]] = {}
        for worker in self:
            if worker.record.models:
                groups.setdefault(lookup_key(worker.record.models[0].name), []).append(worker)
        for workers in groups.values():
            rates = [worker.rate for worker in workers]
            priors = [worker.record.speed for worker in workers]
            for worker, speed in zip(workers, relative(rates, priors, now), strict=True):
                worker.speed = speed
