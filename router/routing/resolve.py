"""Resolves a model name: the routing file first, then served names, then virtual models, which are routed as their
base. The result is kept per name until the models of the pool change."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING

from vllama_pool.config.names import MAX_CACHED_LENGTH, InvalidName, lookup_key, parse
from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.config.routing.table import LEAST_LOAD, RoutingTable
from vllama_pool.router.balance import select
from vllama_pool.router.balance.group import Group
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.balance.select import POLICIES, Policy, Untried
from vllama_pool.router.balance.worker import Replica
from vllama_pool.router.errors import NoWorker
from vllama_pool.router.routing.rights import Rights
from vllama_pool.workers.registry.record import ModelInfo
from vllama_pool.workers.registry.virtual_model import VirtualModel

if TYPE_CHECKING:
    from vllama_pool.config.routing.model_entry import ModelEntry, Target

RETRY_AFTER = 5
"""Seconds, for a model without a worker."""

MAX_NAMES = 8192
"""Names, in the clients' spellings, whose resolution is kept. The least recently used are forgotten first."""

MAX_ORDERS = 64
"""Orders of one model's weighted targets whose resolution is kept."""


class UnknownModel(Exception):
    """The name is not configured and was never served. The endpoint words the 404."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name
        """As the client spelled it."""


class Resolution:
    """Replicas, defaults and policy for a name. Shared by the requests for it: it has no state of one request."""

    __slots__ = ("defaults", "groups", "info", "listed", "model", "name", "policy", "virtual")

    info: ModelInfo
    """The model's description, preferably by a worker that has read its files. Unset without replicas."""

    def __init__(
        self, name: str, model: str, groups: tuple[Group, ...], defaults: Defaults, policy: Policy, virtual: str = ""
    ) -> None:
        self.name = name
        """As the client spelled it."""
        self.model = model
        """The canonical name for logs and metrics; of a virtual model its base's, because clients choose virtual names
        freely."""
        self.groups = groups
        """The replicas of each served model, in order of preference."""
        self.defaults = defaults
        """The routing file's options; a virtual model's override them."""
        self.policy = policy
        self.virtual = virtual
        """The listed name of the requested virtual model; "" for others."""
        self.listed = virtual or listed_name(model)
        if groups:
            infos = [group.info for group in groups]
            self.info = next((info for info in infos if info.digest), infos[0])

    def __repr__(self) -> str:
        return f"<Resolution of {self.name!r}, {len(self.replicas)} replicas>"

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """All replicas now, in order."""
        return tuple(replica for group in self.groups for replica in group.replicas)

    @property
    def beyond_slots(self) -> int:
        """Load minus slots, over the serving workers; negative for free slots."""
        workers = {worker for group in self.groups for worker in group}
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


@dataclass(slots=True)
class _Known:
    """A name's resolution, or one for each order of its weighted targets."""

    base: Resolution
    """With the targets in the routing file's order."""
    weights: tuple[float, ...] = ()
    """Of `base.groups`; empty if their order is not drawn."""
    virtual: VirtualModel | None = None
    key: str = ""
    """Of the virtual model."""
    orders: dict[tuple[Group, ...], Resolution] = field(default_factory=dict)

    def draw(self, rng: random.Random) -> Resolution:
        """Draw an order by weight: the first is preferred, the others are fallbacks."""
        keyed = [(rng.expovariate(weight) if weight else float("inf")) for weight in self.weights]
        groups = tuple(group for _, group in sorted(zip(keyed, self.base.groups, strict=True), key=itemgetter(0)))
        drawn = self.orders.get(groups)
        if drawn is None:
            base = self.base
            drawn = Resolution(base.name, base.model, groups, base.defaults, base.policy, base.virtual)
            if len(self.orders) < MAX_ORDERS:
                self.orders[groups] = drawn
        return drawn


@dataclass(frozen=True, slots=True)
class ListedModel:
    name: str
    """Ollama's short form with its tag; unchanged if it has none."""
    replicas: tuple[Replica, ...]
    """In any state; empty for a configured model that is not served."""
    defaults: Defaults = NO_DEFAULTS
    virtual: VirtualModel | None = None
    """Set for a virtual model; the replicas are then its base's."""

    @property
    def routed_name(self) -> str:
        return self.name if self.virtual is None else self.virtual.base


@dataclass(frozen=True, slots=True)
class _Route:
    """An entry of the table, compiled."""

    name: str
    aliases: tuple[str, ...]
    serve: tuple[Target, ...]
    policy: str
    defaults: Defaults

    @classmethod
    def of(cls, name: str, entry: ModelEntry) -> _Route:
        aliases = tuple(alias.strip() for alias in entry.aliases or ())
        defaults = Defaults(
            entry.option_values(),
            stream_interval=entry.stream_interval,
            templates_completions=entry.completions == "templated",
        )
        return cls(name, aliases, entry.targets(name), entry.policy_name, defaults)


class ModelRoutes:
    """The routing table, resolved against a pool. Immutable but for the policies' state and the names resolved."""

    def __init__(
        self,
        table: RoutingTable,
        rng: random.Random,
        policy: str = LEAST_LOAD,
        virtual: Mapping[str, VirtualModel] | None = None,
    ) -> None:
        """`policy` applies to models outside the table. `virtual`: live virtual models by `lookup_key`."""
        self._models = tuple(_Route.of(name.strip(), entry) for name, entry in table.models.items())
        self._by_key: dict[str, _Route] = {}
        for route in self._models:
            for name in (route.name, *route.aliases):
                self._by_key.setdefault(lookup_key(name), route)
        self._virtual = virtual if virtual is not None else {}
        self._rng = rng
        self._policy = POLICIES[policy]()
        self._pool: Pool | None = None
        self._pool_version = 0
        self._known = lru_cache(maxsize=MAX_NAMES)(self._look_up)
        self._policies = {route.name: POLICIES[route.policy]() for route in self._models}

    def __repr__(self) -> str:
        return f"<ModelRoutes {len(self._models)} models, {len(self._by_key)} names>"

    def resolve(self, name: str, pool: Pool, rights: Rights | None = None) -> Resolution:
        """Raises UnknownModel, also for a model that `rights` exclude, and NoWorker for a known model without an
        available worker."""
        if rights is not None and not rights.allows(self._routed_name(name, pool)):
            raise UnknownModel(name)
        if pool is not self._pool or pool.version != self._pool_version:
            self._pool, self._pool_version = pool, pool.version
            self._known.cache_clear()
        known = self._known(name) if len(name) <= MAX_CACHED_LENGTH else self._look_up(name)
        if known.virtual is not None and self._virtual.get(known.key) is not known.virtual:
            self._known.cache_clear()
            known = self._known(name)
        resolution = known.draw(self._rng) if known.weights else known.base
        for group in resolution.groups:
            if group.serving:
                return resolution
        raise resolution.no_worker()

    def find(self, name: str, pool: Pool, rights: Rights | None = None) -> ListedModel | None:
        """Find a model by any of its names, in any state. None for one that `rights` exclude."""
        if rights is not None and not rights.allows(self._routed_name(name, pool)):
            return None
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

    def names_of(self, name: str) -> tuple[str, ...]:
        """Return the name and aliases of the entry that a name finds; () for one outside the routing file."""
        route = self._by_key.get(lookup_key(name))
        return (route.name, *route.aliases) if route is not None else ()

    def _routed_name(self, name: str, pool: Pool) -> str:
        """Return the name that routes: of a virtual model its base's."""
        key = lookup_key(name)
        model = self._virtual.get(key)
        return name if model is None or self._is_shadowed(key, pool) else model.base

    def list_models(self, pool: Pool, rights: Rights | None = None) -> tuple[ListedModel, ...]:
        """List the routing file's models, then other served ones, then virtual ones that neither shadows; without those
        that `rights` exclude."""
        configured = [self._list_configured(route, pool) for route in self._models]
        served = [
            ListedModel(listed_name(name), pool.replicas_by_key(name), NO_DEFAULTS)
            for name in pool.served()
            if lookup_key(name) not in self._by_key
        ]
        virtual = [
            self._list_virtual(model, pool) for key, model in self._virtual.items() if not self._is_shadowed(key, pool)
        ]
        listed = (*configured, *served, *virtual)
        return listed if rights is None else tuple(each for each in listed if rights.allows(each.routed_name))

    def shadowed(self, pool: Pool) -> tuple[str, ...]:
        """Return the virtual models whose names are configured or served."""
        return tuple(model.name for key, model in self._virtual.items() if self._is_shadowed(key, pool))

    def _is_shadowed(self, key: str, pool: Pool) -> bool:
        return key in self._by_key or bool(pool.replicas_by_key(key))

    def _look_up(self, name: str) -> _Known:
        """Raises UnknownModel, or NoWorker for a model whose workers have all left. Neither is kept: clients choose
        unknown names freely, and a virtual model may take the name."""
        assert self._pool is not None
        known = self._look_up_base(name, self._pool) or self._look_up_virtual(name, self._pool)
        if known is None:
            served_name = self._pool.ever_served(name)
            if served_name is None:
                raise UnknownModel(name)
            raise no_worker(name, served_name, ())
        return known

    def _look_up_base(self, name: str, pool: Pool) -> _Known | None:
        route = self._by_key.get(lookup_key(name))
        if route is not None:
            targets = [(entry.weight, group) for entry in route.serve if (group := pool.group_for(entry.model))]
            groups = tuple(group for _, group in targets)
            resolution = Resolution(name, route.name, groups, route.defaults, self._policies[route.name])
            return _Known(resolution, tuple(weight for weight, _ in targets) if len(targets) > 1 else ())
        group = pool.group_for(name)
        if group is None:
            return None
        return _Known(Resolution(name, group.first.model.name, (group,), NO_DEFAULTS, self._policy))

    def _look_up_virtual(self, name: str, pool: Pool) -> _Known | None:
        """A virtual model is known even if its base is not."""
        key = lookup_key(name)
        model = self._virtual.get(key)
        if model is None:
            return None
        known = self._look_up_base(model.base, pool)
        if known is None:
            served = pool.ever_served(model.base) or model.base
            base = Resolution(name, served, (), NO_DEFAULTS, self._policy)
            weights: tuple[float, ...] = ()
        else:
            base, weights = known.base, known.weights
        defaults = _merge_defaults(base.defaults, model)
        resolution = Resolution(name, base.model, base.groups, defaults, base.policy, model.name)
        return _Known(resolution, weights, virtual=model, key=key)

    def _list_configured(self, route: _Route, pool: Pool) -> ListedModel:
        replicas = {replica.worker.id: replica for entry in route.serve for replica in pool.replicas_for(entry.model)}
        return ListedModel(listed_name(route.name), tuple(replicas.values()), Defaults(route.defaults.options))

    def _list_virtual(self, model: VirtualModel, pool: Pool) -> ListedModel:
        base = self.find_base(model.base, pool)
        replicas, defaults = (base.replicas, base.defaults) if base is not None else ((), NO_DEFAULTS)
        return ListedModel(model.name, replicas, _merge_defaults(defaults, model), model)


def _merge_defaults(base: Defaults, model: VirtualModel) -> Defaults:
    options = {**base.options, **model.options} if model.options else base.options
    return replace(base, options=options, system=model.system or base.system, messages=model.messages or base.messages)


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
