"""From the name in a request to the workers that may answer it.

The routing file's names and aliases come first, then the names that workers serve, then the virtual models, which are
routed as the models that they were made from. Every served model can be asked for without being listed. A name that
nobody knows and a model that nobody can serve just now are different errors:
the first is the client's, the second passes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from vllama_pool.config.names import InvalidName, lookup_key, parse
from vllama_pool.config.routing.defaults import NONE, Defaults
from vllama_pool.config.routing.table import LEAST_LOAD, ModelRoute, RoutingTable, ServeTarget
from vllama_pool.router.balance import select
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.balance.select import POLICIES, Policy, Untried
from vllama_pool.router.balance.worker import Replica
from vllama_pool.router.errors import NoWorker
from vllama_pool.workers.registry.record import ModelInfo
from vllama_pool.workers.registry.virtual_model import VirtualModel

RETRY_AFTER = 5
"""Seconds that a client is asked to wait for a model without a worker."""


class UnknownModel(Exception):
    """Nobody serves the name, ever has, or has configured it. The endpoint words it (404)."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name
        """As the client spelled it."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a name means now."""

    name: str
    """As the client spelled it."""
    model: str
    """The name it stands for, for logs and metrics: the routing file's, or the served one. For a virtual model, that of
    its base: clients invent the names of those."""
    groups: tuple[tuple[Replica, ...], ...]
    """The replicas of each served model, the models in the order in which they are to be tried."""
    defaults: Defaults
    """What the model brings: the routing file's options, and what a virtual model adds."""
    policy: Policy
    virtual: str = ""
    """The name of the virtual model that was asked for, as the catalogue lists it."""

    @property
    def listed(self) -> str:
        """The name under which the catalogue lists what was asked for."""
        return self.virtual or display(self.model)

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """All of them, in order; at least one in what `ModelRoutes.resolve` returns."""
        return tuple(replica for group in self.groups for replica in group)

    @property
    def info(self) -> ModelInfo:
        """The model as the best informed of its workers describes it: one that has read the files."""
        replicas = self.replicas
        return next((replica.model for replica in replicas if replica.model.digest), replicas[0].model)

    @property
    def beyond_slots(self) -> int:
        """Requests in its serving workers for which they have no slot; negative for free slots."""
        workers = {replica.worker.id: replica.worker for replica in self.replicas}.values()
        return sum(worker.beyond_slots for worker in workers if worker.serving and not worker.down)

    def choose(self, tried: Collection[str], now: float, rng: random.Random) -> Replica | None:
        """The replica to ask next; None if none is left that was not tried (worker ids)."""
        return select.choose(self.groups, tried, now, rng, self.policy)

    def count_untried(self, tried: Collection[str], now: float) -> Untried:
        """Who is left to ask."""
        return select.count_untried(self.groups, tried, now)

    def rejections(self, tried: Collection[str], now: float, chosen: Replica | None) -> dict[str, str]:
        """By id of each worker that was not chosen, the reason. For logs."""
        found = select.rejections(self.groups, tried, now)
        return {worker: reason for worker, reason in found.items() if chosen is None or worker != chosen.worker.id}

    def no_worker(self) -> NoWorker:
        """The error for when `choose` has nobody to begin with."""
        return no_worker(self.name, self.model, self.replicas)


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model as the catalogue lists it."""

    name: str
    """In Ollama's short form, with its tag; as it is if Ollama has no form for it."""
    replicas: tuple[Replica, ...]
    """Every worker that has it, in any state; empty for a configured model that nobody serves."""
    defaults: Defaults = NONE
    virtual: VirtualModel | None = None
    """What it was made with, if it is a virtual model: the replicas are its base's."""


class ModelRoutes:
    """The routing table, resolved against a pool. Immutable but for the memory that policies keep."""

    def __init__(
        self,
        table: RoutingTable,
        rng: random.Random,
        policy: str = LEAST_LOAD,
        virtual: Mapping[str, VirtualModel] | None = None,
    ) -> None:
        """`policy`, one of POLICIES, is that of models which the table does not name. `virtual` has the virtual models
        by the key of their names; it may change at any time."""
        self._models = table.models
        self._by_key: dict[str, ModelRoute] = {}
        for route in table.models:
            for name in (route.name, *route.aliases):
                self._by_key.setdefault(lookup_key(name), route)
        self._virtual = virtual if virtual is not None else {}
        self._rng = rng
        self._policy = POLICIES[policy]()
        self._policies = {route.name: POLICIES[route.policy]() for route in table.models}

    def __repr__(self) -> str:
        return f"<ModelRoutes {len(self._models)} models, {len(self._by_key)} names>"

    def resolve(self, name: str, pool: Pool) -> Resolution:
        """Who may answer a request for `name`.

        Raises UnknownModel, and NoWorker (503) for a known model that nobody can serve now: at once, for waiting
        is the client's choice.
        """
        found = self._known(name, pool) or self._made(name, pool) or self._gone(name, pool)
        if not any(replica.worker.serving for group in found.groups for replica in group):
            raise found.no_worker()
        return found

    def find(self, name: str, pool: Pool) -> ListedModel | None:
        """A model by any of its names, whatever its workers' state; None if it is unknown."""
        found = self.find_base(name, pool)
        if found is not None:
            return found
        model = self._virtual.get(lookup_key(name))
        return self._listed_virtual(model, pool) if model is not None else None

    def find_base(self, name: str, pool: Pool) -> ListedModel | None:
        """The same among the routing file's models and the served ones: virtual models are made from these, and
        cannot have their names."""
        route = self._by_key.get(lookup_key(name))
        if route is not None:
            return self._listed(route, pool)
        replicas = pool.replicas(name)
        return ListedModel(display(replicas[0].model.name), replicas, NONE) if replicas else None

    def is_configured(self, name: str) -> bool:
        """Whether the routing file has the name."""
        return lookup_key(name) in self._by_key

    def listing(self, pool: Pool) -> tuple[ListedModel, ...]:
        """Every model that can be asked for: the routing file's, then the served ones that it does not redefine, then
        the virtual ones whose names none of these has."""
        configured = [self._listed(route, pool) for route in self._models]
        served = [
            ListedModel(display(name), pool.replicas(name), NONE)
            for name in pool.served()
            if lookup_key(name) not in self._by_key
        ]
        made = [
            self._listed_virtual(model, pool) for key, model in self._virtual.items() if not self._shadowed(key, pool)
        ]
        return (*configured, *served, *made)

    def shadowed(self, pool: Pool) -> tuple[str, ...]:
        """The virtual models whose names the routing file or a worker has now."""
        return tuple(model.name for key, model in self._virtual.items() if self._shadowed(key, pool))

    def _shadowed(self, key: str, pool: Pool) -> bool:
        return key in self._by_key or bool(pool.replicas(key))

    def _known(self, name: str, pool: Pool) -> Resolution | None:
        """What the routing file or the workers that are there mean by a name."""
        route = self._by_key.get(lookup_key(name))
        if route is not None:
            return self._configured(name, route, pool)
        replicas = pool.workers_for(name)
        return Resolution(name, replicas[0].model.name, (replicas,), NONE, self._policy) if replicas else None

    def _made(self, name: str, pool: Pool) -> Resolution | None:
        """A virtual model, routed as its base. One whose base is out is known all the same."""
        model = self._virtual.get(lookup_key(name))
        if model is None:
            return None
        base = self._known(model.base, pool)
        if base is None:
            served = pool.ever_served(model.base) or model.base
            return Resolution(name, served, (), _layered(NONE, model), self._policy, model.name)
        defaults = _layered(base.defaults, model)
        return Resolution(name, base.model, base.groups, defaults, base.policy, model.name)

    def _gone(self, name: str, pool: Pool) -> Resolution:
        """A name whose last worker has left. Raises UnknownModel for any other."""
        if gone := pool.ever_served(name):
            return Resolution(name, gone, (), NONE, self._policy)
        raise UnknownModel(name)

    def _configured(self, name: str, route: ModelRoute, pool: Pool) -> Resolution:
        groups = (pool.workers_for(entry.model) for entry in self._in_turn(route.serve))
        known = tuple(group for group in groups if group)
        return Resolution(name, route.name, known, Defaults(route.options), self._policies[route.name])

    def _in_turn(self, serve: Sequence[ServeTarget]) -> Iterable[ServeTarget]:
        """The entries in an order drawn by weight: the first is meant, the others stand in for it."""
        if len(serve) < 2:
            return serve
        return sorted(serve, key=lambda entry: self._rng.expovariate(entry.weight) if entry.weight else float("inf"))

    def _listed(self, route: ModelRoute, pool: Pool) -> ListedModel:
        replicas = {replica.worker.id: replica for entry in route.serve for replica in pool.workers_for(entry.model)}
        return ListedModel(display(route.name), tuple(replicas.values()), Defaults(route.options))

    def _listed_virtual(self, model: VirtualModel, pool: Pool) -> ListedModel:
        base = self.find_base(model.base, pool)
        replicas, defaults = (base.replicas, base.defaults) if base is not None else ((), NONE)
        return ListedModel(model.name, replicas, _layered(defaults, model), model)


def _layered(base: Defaults, model: VirtualModel) -> Defaults:
    """What a virtual model was made with is stronger than what its base brings."""
    options = {**base.options, **model.options} if model.options else base.options
    return Defaults(options, model.system or base.system, model.messages or base.messages)


def no_worker(name: str, model: str, replicas: Sequence[Replica]) -> NoWorker:
    """503 for a model that was asked for as `name`, and why: what state its workers are in."""
    workers = {replica.worker.id: replica.worker for replica in replicas}.values()
    if not workers:
        why = "no worker serves it now"
    else:
        states = Counter("down" if worker.down else str(worker.state) for worker in workers)
        why = "its workers are out: " + ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        notes = {worker.last.note for worker in workers if worker.last.note}
        if len(notes) == 1:
            why += f" ({notes.pop()})"
    return NoWorker(f"no worker is available for model '{name}': {why}", model=model, retry_after=RETRY_AFTER)


@lru_cache(maxsize=4096)
def display(name: str) -> str:
    """A name as Ollama lists it."""
    try:
        return parse(name).short
    except InvalidName:
        return name
