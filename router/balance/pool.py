"""All workers known to one router process, and the models that they serve.

All state belongs to one event loop and nothing awaits, so there are no locks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import count

from vllama_pool.config.names import lookup_key
from vllama_pool.router.balance.group import Group
from vllama_pool.router.balance.lease import Lease
from vllama_pool.router.balance.speed import Peers
from vllama_pool.router.balance.vacancies import Vacancies
from vllama_pool.router.balance.worker import Replica, Worker
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerRecord

Models = tuple[ModelInfo, ...]

MAX_DEPARTED_NAMES = 4096
"""Names served earlier that are distinguished from unknown ones. The oldest are forgotten first."""


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

    def __init__(self, clock: Callable[[], float], sharers: int = 1) -> None:
        """`clock` returns monotonic seconds. `sharers`: see `Vacancies`."""
        self._clock = clock
        self.vacancies = Vacancies(sharers)
        self._workers: dict[str, Worker] = {}
        self._removed: dict[str, Worker] = {}
        self._exact: dict[str, Group] = {}
        self._by_key: dict[str, Group] = {}
        self._departed: dict[str, ModelInfo] = {}  # the latest description by name, the latest last
        self._peers: dict[str, Peers] = {}  # by the key of the workers' first model
        self._positions = count()
        self._served: tuple[str, ...] | None = None
        self._message_for: Callable[[WorkerRecord], str] = lambda record: ""
        self._drained: Collection[str] = ()
        self.version = 0
        """Changes with the models that any worker serves."""

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
        """Add workers, or renew the records of known ones. Costs the same whatever else the pool holds."""
        now = self._clock()
        for one in found:
            worker = self._upsert(one, now)
            worker.set_aside = self._message_for(one.record)
            worker.drained = worker.id in self._drained
            if one.load is not None:
                worker.report(one.load, now)
            worker.speed.compare(now)

    def remove(self, *worker_ids: str) -> None:
        """Remove workers; their requests continue. Unknown ids are ignored."""
        removed = [self._workers.pop(worker_id) for worker_id in worker_ids if worker_id in self._workers]
        for worker in removed:
            self._index(worker, worker.record.models, ())
            if worker.in_flight:
                self._removed[worker.id] = worker
        if self._removed:
            self._removed = {key: worker for key, worker in self._removed.items() if worker.in_flight}

    def report(self, worker_id: str, load: LoadReport) -> bool:
        """Return False for an unknown worker."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return False
        now = self._clock()
        worker.report(load, now)
        worker.speed.compare(now)
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
            worker.mark_down()

    def set_aside(self, message_for: Callable[[WorkerRecord], str]) -> None:
        """Set aside the workers with a message, now and later, and take the others back. Their requests continue."""
        self._message_for = message_for
        for worker in self:
            worker.set_aside = message_for(worker.record)

    def drain(self, worker_ids: Collection[str]) -> None:
        """Give these workers, now and later, no new requests, and the others requests again. Theirs continue."""
        self._drained = worker_ids
        for worker in self:
            worker.drained = worker.id in worker_ids

    # called for requests

    def group_for(self, name: str) -> Group | None:
        """Return the replicas for a name, in any state: those with its exact spelling, else `group_by_key`."""
        return self._exact.get(name) or self.group_by_key(name)

    def group_by_key(self, name: str) -> Group | None:
        """Return the replicas for a name by Ollama's rules: case-insensitive, and `:latest` is optional."""
        return self._by_key.get(lookup_key(name))

    def replicas_for(self, name: str) -> tuple[Replica, ...]:
        group = self.group_for(name)
        return group.replicas if group is not None else ()

    def replicas_by_key(self, name: str) -> tuple[Replica, ...]:
        group = self.group_by_key(name)
        return group.replicas if group is not None else ()

    def ever_served(self, name: str) -> str | None:
        """Return the model served under this name, now or earlier, in the worker's spelling."""
        group = self.group_for(name)
        if group is not None:
            return group.first.model.name
        info = self.departed(name)
        return info.name if info is not None else None

    def departed(self, name: str) -> ModelInfo | None:
        """Return the latest description of a model whose workers have all left; None for another name."""
        return self._departed.get(name) or self._departed.get(lookup_key(name))

    def served(self) -> tuple[str, ...]:
        """Return the models' names, sorted, without aliases, in the first spelling by code points."""
        if self._served is None:
            names: dict[str, str] = {}
            for worker in self:
                for model in worker.record.models:
                    key = lookup_key(model.name)
                    names[key] = min(names.get(key, model.name), model.name)
            self._served = tuple(sorted(names.values()))
        return self._served

    def panics(self, now: float) -> Iterator[tuple[str, bool]]:
        """Yield the served models with whether so few of their workers are healthy that breakers are ignored."""
        for name in self.served():
            group = self.group_for(name)
            if group is not None:
                yield name, group.panics(now)

    def lease(self, worker: Worker, model: str = "") -> Lease:
        """Count a request that is sent now. `model` is the served name."""
        return Lease(worker, model, self._clock)

    # internal

    def _upsert(self, found: Discovered, now: float) -> Worker:
        record = found.record
        worker = self._workers.get(record.id)
        if worker is not None:
            before = worker.record
            worker.renew(record, found.endpoint, now)
            if record.models != before.models or record.tags != before.tags:
                self._index(worker, before.models, record.models)
            return worker
        worker = self._removed.pop(record.id, None)
        if worker is not None and worker.in_flight:
            worker.renew(record, found.endpoint, now)
        else:
            worker = Worker(record, found.endpoint, now, self.vacancies)
        worker.position = next(self._positions)
        self._workers[record.id] = worker
        self._index(worker, (), record.models)
        return worker

    def _index(self, worker: Worker, before: Models, after: Models) -> None:
        """Enter the worker under the names of its models, and strike out those that it no longer has."""
        worker.observers.clear()
        old, new = _by_spelling(worker, before), _by_spelling(worker, after)
        self._index_names(self._exact, worker, old, new)
        self._index_names(self._by_key, worker, _by_key(old), _by_key(new))
        if before:
            self._leave_peers(worker, before)
        if after:
            peers = worker.speed.peers = self._peers.setdefault(lookup_key(after[0].name), Peers())
            peers.join(worker.id, worker.speed.rate, worker.speed.pace)
        self.version += 1
        self._served = None
        if self.vacancies.watched:
            self.vacancies.note()

    def _index_names(
        self, groups: dict[str, Group], worker: Worker, old: Mapping[str, Replica], new: Mapping[str, Replica]
    ) -> None:
        for name, replica in new.items():
            group = groups.get(name)
            if group is None:
                group = groups[name] = Group()
                self._departed.pop(name, None)
            group.join(replica)
            worker.observers.append(group)
        for name, replica in old.items():
            if name not in new:
                group = groups[name]
                group.leave(worker)
                if not group:
                    del groups[name]
                    self._record_departed(name, replica.model)

    def _leave_peers(self, worker: Worker, before: Models) -> None:
        key = lookup_key(before[0].name)
        self._peers[key].leave(worker.id)
        if not self._peers[key]:
            del self._peers[key]

    def _record_departed(self, name: str, model: ModelInfo) -> None:
        self._departed[name] = model
        if len(self._departed) > MAX_DEPARTED_NAMES:
            del self._departed[next(iter(self._departed))]


def _by_spelling(worker: Worker, models: Models) -> dict[str, Replica]:
    """Return one worker's replicas by each of their names. Of two with the same name the first counts."""
    replicas: dict[str, Replica] = {}
    for model in models:
        replica = Replica(worker, model)
        for name in model.names:
            replicas.setdefault(name, replica)
    return replicas


def _by_key(spelled: Mapping[str, Replica]) -> dict[str, Replica]:
    replicas: dict[str, Replica] = {}
    for name, replica in spelled.items():
        replicas.setdefault(lookup_key(name), replica)
    return replicas
