"""Resolves a model name: the routing file first, then served names, then virtual models, which are routed as their
base. The result is kept per name until the models of the pool change."""

from __future__ import annotations

import random
import weakref
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple

from vllama_pool.config.names import MAX_CACHED_LENGTH, lookup_key
from vllama_pool.config.routing.defaults import NO_DEFAULTS
from vllama_pool.config.routing.table import LEAST_LOAD, RoutingTable
from vllama_pool.router.balance.group import Group
from vllama_pool.router.balance.policies.policy import Policy
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.balance.select import POLICIES
from vllama_pool.router.routing.demands import make_policy
from vllama_pool.router.routing.known import Chain, Known
from vllama_pool.router.routing.listed_model import ListedModel, merge_defaults
from vllama_pool.router.routing.resolution import (
    Asked,
    Reason,
    Resolution,
    UnknownModel,
    listed_name,
    no_worker,
)
from vllama_pool.router.routing.rights import Rights
from vllama_pool.router.routing.rules import Match, Rule, Rules
from vllama_pool.workers.registry.record import ModelInfo
from vllama_pool.workers.registry.virtual_model import VirtualModel

if TYPE_CHECKING:
    from vllama_pool.config.routing.model_entry import Selector, Target

MAX_NAMES = 8192
"""Names, in the clients' spellings, whose resolution is kept. The least recently used are forgotten first."""

UNDETECTED = ("tools", "vision", "thinking")
"""Capabilities that a model may have which no worker has served yet."""

_Virtual = tuple[str, VirtualModel]
"""With its key."""


class _Route(NamedTuple):
    """The destination of the requests for a name."""

    model: str
    key: str
    groups: tuple[Group, ...]
    match: Match | None = None
    targets: tuple[Target, ...] = ()
    """Of the groups, in the same order."""


class ModelRoutes:
    """The routing table, resolved against a pool. Immutable but for the policies' state and the names resolved."""

    def __init__(
        self,
        table: RoutingTable,
        rng: random.Random,
        policy: str = LEAST_LOAD,
        virtual: Mapping[str, VirtualModel] | None = None,
        *,
        previous: ModelRoutes | None = None,
    ) -> None:
        """`policy` applies to models outside the table. `virtual`: live virtual models by `lookup_key`. `previous`: the
        routes before a reload, whose policies keep their state where the entry did not change them."""
        self.rules: Rules = Rules(table, previous.rules if previous is not None else None)
        self.revision = table.revision
        self._virtual = virtual if virtual is not None else {}
        self._rng = rng
        self.default_policy = policy
        self._policy = POLICIES[policy]()
        if previous is not None and previous.default_policy == policy:
            self._policy = previous._policy
        self._policies = self._take_policies(previous)
        self._pool: Pool | None = None
        self._pool_version = 0
        self._known = lru_cache(maxsize=MAX_NAMES)(partial(ModelRoutes._look_up, weakref.proxy(self)))
        """The cache refers to these routes weakly: a cycle would leave a large table to the garbage collector."""
        self._shared: dict[Rule | Group, Known] = {}
        """By entry or served name, for all of their spellings."""

    def __repr__(self) -> str:
        return f"<ModelRoutes {self.rules!r}>"

    def resolve(self, name: str, pool: Pool, rights: Rights | None = None) -> Resolution:
        """Return the resolution for one request, or a fallback's if no worker serves the model.

        If it needs the asker, draw it for the asker's identity. Raises UnknownModel, also for a model that `rights`
        exclude, and NoWorker for a known model without an available worker.
        """
        if rights is not None and not rights.allows(self.routed_name(name, pool)):
            raise UnknownModel(name)
        if pool is not self._pool or pool.version != self._pool_version:
            self._pool, self._pool_version = pool, pool.version
            self.forget()
        known = self._known(name) if len(name) <= MAX_CACHED_LENGTH else self._look_up(name)
        if known.virtual is not None and self._virtual.get(known.virtual[0]) is not known.virtual[1]:
            self._known.cache_clear()
            known = self._known(name)
        resolution = known.resolution() if known.draws else known.base
        for group in resolution.groups:  # as `resolution.serving`, without its call
            if group.serving and not resolution.set_aside:
                return resolution
        stand_in = known.next("no_worker", ())
        if stand_in is None:
            raise resolution.without_worker(name)
        return stand_in

    def forget(self) -> None:
        """Forget the names resolved, which refer to these routes."""
        self._known.cache_clear()
        self._shared.clear()

    def find(self, name: str, pool: Pool, rights: Rights | None = None) -> ListedModel | None:
        """Find a model by any of its names, in any state. None for one that `rights` exclude."""
        if rights is not None and not rights.allows(self.routed_name(name, pool)):
            return None
        base = self.find_base(name, pool)
        if base is not None:
            return base
        model = self._virtual.get(lookup_key(name))
        return self._list_virtual(model, pool) if model is not None else None

    def find_base(self, name: str, pool: Pool) -> ListedModel | None:
        """Find a model that is not virtual."""
        match = self.rules.find(name)
        if match is not None:
            return self._list_match(name, match, pool) if self._takes(match, name, pool) else None
        replicas = pool.replicas_by_key(name)
        if not replicas:
            return None
        return ListedModel(listed_name(min(replica.model.name for replica in replicas)), replicas, NO_DEFAULTS)

    def is_configured(self, name: str) -> bool:
        """True for a name of the routing file, and for one that a pattern sends to a model of another name."""
        match = self.rules.find(name)
        return match is not None and not match.rule.follows_name

    def names_of(self, name: str) -> tuple[str, ...]:
        """Return the name and aliases of the entry that a name finds; () for one outside the routing file, or under a
        pattern."""
        match = self.rules.find(name)
        return match.rule.names if match is not None and not match.rule.is_pattern else ()

    def list_models(self, pool: Pool, rights: Rights | None = None) -> tuple[ListedModel, ...]:
        """List the routing file's models, then other served ones, then virtual ones that neither shadows; without those
        that `rights` exclude. Of patterns, the served models that match are listed."""
        configured = [self._list_match(rule.name, Match(rule), pool) for rule in self.rules.exact]
        served = [
            model
            for name in pool.served()
            if not self._is_listed(name) and (model := self.find_base(name, pool)) is not None
        ]
        virtual = [
            self._list_virtual(model, pool) for key, model in self._virtual.items() if not self._is_shadowed(key, pool)
        ]
        listed = (*configured, *served, *virtual)
        return listed if rights is None else tuple(each for each in listed if rights.allows(each.routed_name))

    def shadowed(self, pool: Pool) -> tuple[str, ...]:
        """Return the virtual models whose names are configured or served."""
        return tuple(model.name for key, model in self._virtual.items() if self._is_shadowed(key, pool))

    def routed_name(self, name: str, pool: Pool) -> str:
        """Return the name that routes: of a virtual model its base's."""
        key = lookup_key(name)
        model = self._virtual.get(key)
        return name if model is None or self._is_shadowed(key, pool) else model.base

    def targets(self, match: Match, name: str, pool: Pool) -> list[tuple[Target, Group]]:
        """Return the served models of a rule that have replicas, be it on workers that its selector leaves out."""
        return [
            (target, _selected(group, target.workers or match.rule.entry.workers))
            for target, served in match.served(name)
            if (group := pool.group_for(served))
        ]

    # internal

    def _take_policies(self, previous: ModelRoutes | None) -> dict[str, Policy]:
        """Return the policy of each rule, by name: the previous one if the entry still asks for the same."""
        before = previous.rules.by_name if previous is not None else {}
        policies: dict[str, Policy] = {}
        for name, rule in self.rules.by_name.items():
            old = before.get(name)
            if previous is not None and old is not None and old.entry.policy == rule.entry.policy:
                policies[name] = previous._policies[name]
            else:
                policies[name] = make_policy(rule.entry.policy)
        return policies

    def _is_shadowed(self, key: str, pool: Pool) -> bool:
        match = self.rules.find(key)
        return bool(pool.replicas_by_key(key)) if match is None else self._takes(match, key, pool)

    def _is_listed(self, name: str) -> bool:
        """True if the routing file has the name itself, not a pattern of it."""
        match = self.rules.find(name)
        return match is not None and not match.rule.is_pattern

    def _takes(self, match: Match, name: str, pool: Pool) -> bool:
        """True if the rule knows the name. A pattern that serves each name by itself knows those that are served, and
        all names if it has a fallback for them."""
        if not match.rule.follows_name or any(pool.ever_served(served) for _, served in match.served(name)):
            return True
        return bool(match.rule.entry.fallbacks("no_worker")) and lookup_key(name) not in self._virtual

    def _look_up(self, name: str) -> Known:
        """Raises UnknownModel, or NoWorker for a model whose workers have all left. Neither is kept: clients choose
        unknown names freely, and a virtual model may take the name."""
        pool = self._pool
        assert pool is not None
        known = self._look_up_base(name, pool) or self._look_up_virtual(name, pool)
        if known is None:
            served_name = pool.ever_served(name)
            if served_name is None or self.rules.find(name) is not None:
                raise UnknownModel(name)
            raise no_worker(name, served_name, ())
        return known

    def _look_up_virtual(self, name: str, pool: Pool) -> Known | None:
        """A virtual model is known even if its base is not."""
        key = lookup_key(name)
        model = self._virtual.get(key)
        if model is None:
            return None
        route = self._route(model.base, self.rules.find(model.base), pool)
        if route is not None:
            return self._build(route, pool, (key, model))
        served = pool.ever_served(model.base) or model.base
        known = Known(self._rng, lambda reason: ())
        known.virtual = key, model
        known.base = Resolution(served, served, (), merge_defaults(NO_DEFAULTS, model), self._policy, model.name)
        return known

    def _look_up_base(self, name: str, pool: Pool) -> Known | None:
        """Return what is known of a name that is configured or served."""
        match = self.rules.find(name)
        group = pool.group_for(name) if match is None else None
        sharer = group if match is None else match.rule if not match.rule.varies else None
        if sharer is not None and (known := self._shared.get(sharer)) is not None:
            return known
        route = self._route(name, match, pool)
        if route is None:
            return None
        known = self._build(route, pool)
        if sharer is not None:
            self._shared[sharer] = known
        return known

    def _route(self, name: str, match: Match | None, pool: Pool) -> _Route | None:
        """Return where the requests for a name go; None if it is neither configured nor served."""
        if match is None:
            group = pool.group_for(name)
            return _Route(group.first.model.name, lookup_key(name), (group,)) if group is not None else None
        if not self._takes(match, name, pool):
            return None
        targets = self.targets(match, name, pool)
        key = lookup_key(name) if match.rule.follows_name else match.rule.key
        groups = tuple(group for _, group in targets)
        return _Route(match.rule.name, key, groups, match, tuple(target for target, _ in targets))

    def _build(self, route: _Route, pool: Pool, virtual: _Virtual | None = None, asked: Asked | None = None) -> Known:
        """`virtual`: the model that was requested. `asked`: the model for which this one is a fallback."""
        match = route.match
        rule = match.rule if match is not None else None
        known = Known(self._rng, lambda reason: self._chain(known, route, pool, reason))
        known.virtual = virtual
        if rule is not None and len(route.groups) > 1:
            weights = tuple(float(target.weight) for target in route.targets)
            known.divide(rule.entry.split, weights, tuple(rule.seeds[target] for target in route.targets))
        defaults = rule.defaults if rule is not None else NO_DEFAULTS
        known.base = Resolution(
            route.model,
            route.model,
            route.groups,
            defaults if virtual is None else merge_defaults(defaults, virtual[1]),
            self._policies[rule.name] if rule is not None else self._policy,
            virtual[1].name if virtual is not None else "",
            key=route.key,
            rule=rule,
            alternatives=known,
            needs_asker=match is not None and self.rules.asks(match, route.key),
            asked=asked,
            departed=None if route.groups or match is None else self._departed(match, route.model, pool),
        )
        return known

    def _departed(self, match: Match, name: str, pool: Pool) -> ModelInfo | None:
        """Return the latest description of a rule's targets without replicas."""
        return next((info for _, served in match.served(name) if (info := pool.departed(served))), None)

    def _chain(self, known: Known, route: _Route, pool: Pool, reason: Reason) -> Chain:
        """Return the fallbacks of a route, whose resolutions `known` has."""
        if route.match is None:
            return ()
        asked = Asked(known.base, reason)
        names = self.rules.chain_of(route.match, route.key, reason)
        routes = (self._route(name, self.rules.find(name), pool) for name in names)
        return tuple(self._build(each, pool, known.virtual, asked) for each in routes if each is not None)

    def _list_match(self, name: str, match: Match, pool: Pool) -> ListedModel:
        groups = (group for _, group in self.targets(match, name, pool))
        replicas = {replica.worker.id: replica for group in groups for replica in group.replicas}
        shown = name if match.rule.is_pattern else match.rule.name
        assumed = None
        if match.rule.from_zero and not replicas:
            assumed = self._departed(match, name, pool) or ModelInfo(name=match.rule.name, undetected=UNDETECTED)
        return ListedModel(listed_name(shown), tuple(replicas.values()), match.rule.defaults, assumed=assumed)

    def _list_virtual(self, model: VirtualModel, pool: Pool) -> ListedModel:
        base = self.find_base(model.base, pool)
        if base is None:
            return ListedModel(model.name, (), merge_defaults(NO_DEFAULTS, model), model)
        return ListedModel(model.name, base.replicas, merge_defaults(base.defaults, model), model, base.assumed)


def _selected(group: Group, selector: Selector | None) -> Group:
    return group if selector is None else group.where(selector)
