"""Resolves a model name: the routing file first, then served names, then virtual models, which are routed as their
base."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from vllama_pool.config.names import InvalidName, lookup_key, parse
from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.config.routing.table import LEAST_LOAD, ModelRoute, RoutingTable, ServeTarget
from vllama_pool.router.balance import select
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.balance.select import POLICIES, Policy, Untried
from vllama_pool.router.balance.worker import Replica
from vllama_pool.router.errors import NoWorker
from vllama_pool.workers.registry.record import ModelInfo
from vllama_pool.workers.registry.virtual_model import VirtualModel

RETRY_AFTER = 5
"""Seconds, for a model without a worker."""


class UnknownModel(Exception):
    """The name is not configured and was never served. The endpoint words the 404."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name
        """As the client spelled it."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """Replicas, defaults and policy for a name, at one moment."""

    name: str
    """As the client spelled it."""
    model: str
    """The canonical name for logs and metrics; of a virtual model its base's, because clients choose virtual names
    freely."""
    groups: tuple[tuple[Replica, ...], ...]
    """The replicas of each served model, in order of preference."""
    defaults: Defaults
    """The routing file's options; a virtual model's override them."""
    policy: Policy
    virtual: str = ""
    """The listed name of the requested virtual model; "" for others."""

    @property
    def listed(self) -> str:
        return self.virtual or listed_name(self.model)

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """All replicas, in order; never empty after `ModelRoutes.resolve`."""
        return tuple(replica for group in self.groups for replica in group)

    @property
    def info(self) -> ModelInfo:
        """The model's description, preferably by a worker that has read its files."""
        replicas = self.replicas
        return next((replica.model for replica in replicas if replica.model.digest), replicas[0].model)

    @property
    def beyond_slots(self) -> int:
        """Load minus slots, over the serving workers; negative for free slots."""
        workers = {replica.worker.id: replica.worker for replica in self.replicas}.values()
        return sum(worker.beyond_slots for worker in workers if worker.serving and not worker.down)

    def choose(self, tried: Collection[str], now: float, rng: random.Random) -> Replica | None:
        """None if every worker was tried."""
        return select.choose(self.groups, tried, now, rng, self.policy)

    def count_untried(self, tried: Collection[str], now: float) -> Untried:
        return select.count_untried(self.groups, tried, now)

    def rejections(self, tried: Collection[str], now: float, chosen: Replica | None) -> dict[str, str]:
        """Return why each other worker was not chosen, by id."""
        reasons = select.rejections(self.groups, tried, now)
        return {worker: reason for worker, reason in reasons.items() if chosen is None or worker != chosen.worker.id}

    def no_worker(self) -> NoWorker:
        return no_worker(self.name, self.model, self.replicas)


@dataclass(frozen=True, slots=True)
class ListedModel:
    name: str
    """Ollama's short form with its tag; unchanged if it has none."""
    replicas: tuple[Replica, ...]
    """In any state; empty for a configured model that is not served."""
    defaults: Defaults = NO_DEFAULTS
    virtual: VirtualModel | None = None
    """Set for a virtual model; the replicas are then its base's."""


class ModelRoutes:
    """The routing table, resolved against a pool. Immutable but for the policies' state."""

    def __init__(
        self,
        table: RoutingTable,
        rng: random.Random,
        policy: str = LEAST_LOAD,
        virtual: Mapping[str, VirtualModel] | None = None,
    ) -> None:
        """`policy` applies to models outside the table. `virtual`: live virtual models by `lookup_key`."""
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
        """Raises UnknownModel, and NoWorker for a known model without an available worker."""
        resolution = (
            self._resolve_base(name, pool) or self._resolve_virtual(name, pool) or self._resolve_departed(name, pool)
        )
        if not any(replica.worker.serving for group in resolution.groups for replica in group):
            raise resolution.no_worker()
        return resolution

    def find(self, name: str, pool: Pool) -> ListedModel | None:
        """Find a model by any of its names, in any state."""
        base = self.find_base(name, pool)
        if base is not None:
            return base
        model = self._virtual.get(lookup_key(name))
        return self._list_virtual(model, pool) if model is not None else None

    def find_base(self, name: str, pool: Pool) -> ListedModel | None:
        """Find a model that is not virtual."""
        route = self._by_key.get(lookup_key(name))
        if route is not None:
            return self._list_configured(route, pool)
        replicas = pool.replicas_by_key(name)
        if not replicas:
            return None
        return ListedModel(listed_name(min(replica.model.name for replica in replicas)), replicas, NO_DEFAULTS)

    def is_configured(self, name: str) -> bool:
        return lookup_key(name) in self._by_key

    def list_models(self, pool: Pool) -> tuple[ListedModel, ...]:
        """List the routing file's models, then other served ones, then virtual ones that neither shadows."""
        configured = [self._list_configured(route, pool) for route in self._models]
        served = [
            ListedModel(listed_name(name), pool.replicas_by_key(name), NO_DEFAULTS)
            for name in pool.served()
            if lookup_key(name) not in self._by_key
        ]
        virtual = [
            self._list_virtual(model, pool) for key, model in self._virtual.items() if not self._is_shadowed(key, pool)
        ]
        return (*configured, *served, *virtual)

    def shadowed(self, pool: Pool) -> tuple[str, ...]:
        """Return the virtual models whose names are configured or served."""
        return tuple(model.name for key, model in self._virtual.items() if self._is_shadowed(key, pool))

    def _is_shadowed(self, key: str, pool: Pool) -> bool:
        return key in self._by_key or bool(pool.replicas_by_key(key))

    def _resolve_base(self, name: str, pool: Pool) -> Resolution | None:
        route = self._by_key.get(lookup_key(name))
        if route is not None:
            return self._resolve_configured(name, route, pool)
        replicas = pool.replicas_for(name)
        return Resolution(name, replicas[0].model.name, (replicas,), NO_DEFAULTS, self._policy) if replicas else None

    def _resolve_virtual(self, name: str, pool: Pool) -> Resolution | None:
        """A virtual model is known even if its base is not."""
        model = self._virtual.get(lookup_key(name))
        if model is None:
            return None
        base = self._resolve_base(model.base, pool)
        if base is None:
            served = pool.ever_served(model.base) or model.base
            return Resolution(name, served, (), _merge_defaults(NO_DEFAULTS, model), self._policy, model.name)
        defaults = _merge_defaults(base.defaults, model)
        return Resolution(name, base.model, base.groups, defaults, base.policy, model.name)

    def _resolve_departed(self, name: str, pool: Pool) -> Resolution:
        """Resolve a name whose workers have all left. Raises UnknownModel."""
        if served_name := pool.ever_served(name):
            return Resolution(name, served_name, (), NO_DEFAULTS, self._policy)
        raise UnknownModel(name)

    def _resolve_configured(self, name: str, route: ModelRoute, pool: Pool) -> Resolution:
        groups = (pool.replicas_for(entry.model) for entry in self._draw_order(route.serve))
        nonempty = tuple(group for group in groups if group)
        defaults = Defaults(route.options, stream_interval=route.stream_interval)
        return Resolution(name, route.name, nonempty, defaults, self._policies[route.name])

    def _draw_order(self, serve: Sequence[ServeTarget]) -> Iterable[ServeTarget]:
        """Draw an order by weight: the first is preferred, the others are fallbacks."""
        if len(serve) < 2:
            return serve
        return sorted(serve, key=lambda entry: self._rng.expovariate(entry.weight) if entry.weight else float("inf"))

    def _list_configured(self, route: ModelRoute, pool: Pool) -> ListedModel:
        replicas = {replica.worker.id: replica for entry in route.serve for replica in pool.replicas_for(entry.model)}
        return ListedModel(listed_name(route.name), tuple(replicas.values()), Defaults(route.options))

    def _list_virtual(self, model: VirtualModel, pool: Pool) -> ListedModel:
        base = self.find_base(model.base, pool)
        replicas, defaults = (base.replicas, base.defaults) if base is not None else ((), NO_DEFAULTS)
        return ListedModel(model.name, replicas, _merge_defaults(defaults, model), model)


def _merge_defaults(base: Defaults, model: VirtualModel) -> Defaults:
    options = {**base.options, **model.options} if model.options else base.options
    return Defaults(options, model.system or base.system, model.messages or base.messages, base.stream_interval)


def no_worker(name: str, model: str, replicas: Sequence[Replica]) -> NoWorker:
    workers = {replica.worker.id: replica.worker for replica in replicas}.values()
    if not workers:
        why = "no worker serves it now"
    else:
        states = Counter("down" if worker.down else str(worker.state) for worker in workers)
        why = "its workers are out: " + ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        notes = {worker.last_report.note for worker in workers if worker.last_report.note}
        if len(notes) == 1:
            why += f" ({notes.pop()})"
    return NoWorker(f"no worker is available for model '{name}': {why}", model=model, retry_after=RETRY_AFTER)


@lru_cache(maxsize=4096)
def listed_name(name: str) -> str:
    """Return the name as Ollama lists it."""
    try:
        return parse(name).short
    except InvalidName:
        return name
