"""The workers that may answer a request for a name, with the model's defaults and policy."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

from vllama_pool.config.names import InvalidName, lookup_key, parse
from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.balance import select
from vllama_pool.router.balance.demand import PLAIN, Demand
from vllama_pool.router.balance.examine import CandidateView, examine, rejections
from vllama_pool.router.balance.group import Group
from vllama_pool.router.balance.policies.policy import Policy
from vllama_pool.router.balance.select import Untried
from vllama_pool.router.balance.selector import Selected
from vllama_pool.router.balance.worker import DRAINING_ASKED, Replica, Worker
from vllama_pool.router.errors import NoWorker
from vllama_pool.router.routing.asker import Asker
from vllama_pool.router.routing.demands import read_demand
from vllama_pool.router.routing.rules import Rule
from vllama_pool.router.routing.splits import PER_REQUEST, identity_hash
from vllama_pool.workers.registry.record import ModelInfo

if TYPE_CHECKING:
    from vllama_pool.config.routing.model_entry import ModelEntry

RETRY_AFTER = 5
"""Seconds, for a model without a worker."""

Reason: TypeAlias = Literal["no_worker", "overloaded", "context", "error"]
"""Why a request goes to another model: no worker serves its own, none has room, the request is too long for all, or
their answers failed."""


class UnknownModel(Exception):
    """The name is not configured and was never served. The endpoint words the 404."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name
        """For messages."""


class Absent(NoWorker):
    """The model has no worker, and its requests wait for one."""

    def __init__(self, resolution: Resolution, error: NoWorker) -> None:
        super().__init__(error.text, model=error.model, retry_after=error.retry_after)
        self.resolution = resolution


class Alternatives(Protocol):
    """The resolutions for one name, which know each other."""

    @property
    def split(self) -> str: ...

    @property
    def shares(self) -> Mapping[str, float]: ...

    def draw_for(self, identity: int, /) -> Resolution: ...

    def next(self, reason: Reason, tried: Collection[str], /) -> Resolution | None: ...


class Asked(NamedTuple):
    """The model for which a fallback stands in."""

    resolution: Resolution
    """Of the requested name."""
    reason: Reason


class Resolution:
    """Replicas, defaults and policy for a name. Shared by the requests for it: it has no state of one request."""

    __slots__ = (
        *("_alternatives", "asked", "defaults", "groups", "has_choice", "info", "key", "listed", "model", "name"),
        *("is_measured", "known_info", "needs_asker", "needs_demand", "policy", "rule", "set_aside", "virtual"),
    )

    info: ModelInfo
    """The model's description, preferably by a worker that has read its files. Unset without replicas."""

    def __init__(
        self,
        name: str,
        model: str,
        groups: tuple[Group, ...],
        defaults: Defaults,
        policy: Policy,
        virtual: str = "",
        *,
        key: str = "",
        rule: Rule | None = None,
        alternatives: Alternatives | None = None,
        needs_asker: bool = False,
        asked: Asked | None = None,
        departed: ModelInfo | None = None,
    ) -> None:
        """`departed`: the latest description of a model without replicas."""
        self.name = name
        """As the client spelled it."""
        self.model = model
        """The canonical name for logs and metrics; of a virtual model its base's, because clients choose virtual names
        freely. Under a pattern, the pattern."""
        self.groups = groups
        """The replicas of each served model, in order of preference."""
        can_resume = any(len(group) > 1 and group.info.digest for group in groups)
        self.defaults = defaults if can_resume else defaults.without_resume
        """The routing file's options; a virtual model's override them. A model that only one worker serves is not asked
        for token ids, which nobody could continue."""
        self.policy = policy
        self.virtual = virtual
        """The listed name of the requested virtual model; "" for others."""
        self.key = key or lookup_key(model)
        """Tells the models of a chain of fallbacks apart."""
        self.rule = rule
        """The entry of the routing file; None for a served name without one."""
        self.listed = self._listed()
        """The name under which Ollama's lists have the model; under a pattern, the served model's."""
        self.asked = asked
        """Set for a fallback."""
        self.set_aside = (rule.entry.maintenance or "") if rule is not None else ""
        """The operators' message if the model is in maintenance, else ""."""
        self._alternatives = alternatives
        self.needs_asker = needs_asker
        """True if its targets or policy, or a fallback's, depend on traits of the request."""
        self.is_measured = len({window for group in groups for window in group.windows}) > 1
        """True if its replicas have several context windows: the request's length then decides among them."""
        self.has_choice = sum(map(len, groups)) > 1
        """True if it has several replicas."""
        self.needs_demand = self.has_choice and (self.is_measured or policy.reads_prefixes or bool(policy.by))
        """True if its choice depends on the request: `demand` then returns more than `PLAIN`."""
        if groups:
            infos = [group.info for group in groups]
            self.info = next((info for info in infos if info.digest), infos[0])
        self.known_info = self.info if groups else departed
        """`info`, or what it was when the last replica left; None if there was none since the router's start."""

    def __repr__(self) -> str:
        return f"<Resolution of {self.name!r}, {len(self.replicas)} replicas>"

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """All replicas now, in order."""
        return tuple(replica for group in self.groups for replica in group.replicas)

    @property
    def entry(self) -> ModelEntry | None:
        """The entry of the routing file, with the model's limits, time-outs and so on."""
        return self.rule.entry if self.rule is not None else None

    @property
    def serving(self) -> bool:
        """True if requests may go to a worker: one serves, even if it is down, and the model is not set aside."""
        for group in self.groups:
            if group.serving:
                return not self.set_aside
        return False

    @property
    def starts_from_zero(self) -> bool:
        """True if its requests wait for a worker to join."""
        return self.rule is not None and self.rule.from_zero and self.asked is None and not self.set_aside

    @property
    def place(self) -> str:
        """FILE:LINE of the entry; "" for a served name without one, or a table without a file."""
        return str(self.rule.place) if self.rule is not None and self.rule.place is not None else ""

    @property
    def split(self) -> str:
        """The trait that keeps its side of weighted targets; "request" for none."""
        return PER_REQUEST if self._alternatives is None else self._alternatives.split

    @property
    def target(self) -> str:
        """The target that comes first; "" without replicas."""
        return next((target_name(group) for group in self.groups if len(group)), "")

    @property
    def shares(self) -> Mapping[str, float]:
        """The share of the requests that each target gets first; empty without replicas."""
        if self._alternatives is None:
            return {self.target: 1.0} if self.target else {}
        return self._alternatives.shares

    @property
    def beyond_slots(self) -> int:
        """Load minus slots, over the serving workers; negative for free slots."""
        workers = {worker for group in self.groups for worker in group}
        return sum(worker.beyond_slots for worker in workers if worker.is_open and not worker.down)

    def _listed(self) -> str:
        pattern = self.rule is not None and self.rule.is_pattern
        return self.virtual or listed_name((pattern and self.target) or self.model)

    def identity(self, asker: Asker) -> int:
        """Return the hash of the trait that keeps its side of weighted targets; 0 if the request has none."""
        if self._alternatives is None or self._alternatives.split == PER_REQUEST:
            return 0
        return identity_hash(asker.identity(self._alternatives.split))

    def drawn(self, identity: int) -> Resolution:
        """Return the resolution with the weighted targets in the order for this `identity`; at random for 0."""
        if self._alternatives is None or self._alternatives.split == PER_REQUEST:
            return self  # drawn when it was resolved
        return self._alternatives.draw_for(identity)

    def next(self, reason: Reason, tried: Collection[str]) -> Resolution | None:
        """Return the next model of the chain of fallbacks that has a serving worker; None at its end.

        `tried`: the `key` of each resolution that was used. Call it on the resolution of the requested name. The result
        may need the asker, too.
        """
        return None if self._alternatives is None else self._alternatives.next(reason, tried)

    def with_groups(self, groups: tuple[Group, ...]) -> Resolution:
        """Return the resolution with its groups in another order."""
        other = copy(self)
        other.groups = groups
        other.listed = other._listed()
        infos = [group.info for group in groups if len(group.whole)]  # all workers of one may have left meanwhile
        other.info = next((info for info in infos if info.digest), infos[0] if infos else self.info)
        return other

    def demand(self, request: Any, asker: Asker | None) -> Demand:
        """Return what its choice depends on in a decoded request. `asker`: of a request that needs one."""
        if not self.needs_demand:
            return PLAIN
        return read_demand(self.policy, self.key, request, asker, measured=self.is_measured)

    def choose(self, tried: Collection[str], now: float, rng: random.Random, demand: Demand = PLAIN) -> Replica | None:
        """None if every worker was tried."""
        return select.choose(self.groups, tried, now, rng, self.policy, demand)

    def peek(self, tried: Collection[str], now: float, rng: random.Random, demand: Demand = PLAIN) -> Replica | None:
        """Return what `choose` would return, without effect."""
        return select.peek(self.groups, tried, now, rng, self.policy, demand)

    def examine(self, tried: Collection[str], now: float, demand: Demand = PLAIN) -> tuple[CandidateView, ...]:
        """Return every replica, with all terms of a choice."""
        return examine(self.groups, tried, now, self.policy, demand)

    def count_untried(self, tried: Collection[str], now: float, demand: Demand = PLAIN) -> Untried:
        return select.count_untried(self.groups, tried, now, demand)

    def rejections(
        self, tried: Collection[str], now: float, chosen: Replica | None, demand: Demand = PLAIN
    ) -> dict[str, str]:
        """Return why each other worker was not chosen, by id."""
        reasons = rejections(self.groups, tried, now, self.policy, demand)
        return {worker: reason for worker, reason in reasons.items() if chosen is None or worker != chosen.worker.id}

    def without_worker(self, name: str = "") -> Absent | NoWorker:
        """Return the error of a resolution that serves nobody. See `no_worker`."""
        error = self.no_worker(name)
        return Absent(self, error) if self.starts_from_zero else error

    def no_worker(self, name: str = "") -> NoWorker:
        """Return the error of a model that is set aside or has no serving worker. `name`: as the client spelled it."""
        name = name or self.virtual or self.name
        if self.set_aside:
            return NoWorker(self.set_aside, model=self.model)  # without Retry-After: clients would wait, then ask again
        if not self.replicas and any(len(group.whole) for group in self.groups):
            return no_worker(name, self.model, (), "its workers lack the tags that the routing file asks for")
        return no_worker(name, self.model, self.replicas)


def served_name(group: Group) -> str:
    """Return the served name; "" after all of its workers have left."""
    whole = group.whole
    return whole.first.model.name if len(whole) else ""


def target_name(group: Group) -> str:
    """Return the served name, and the tags that tell targets of the same model apart."""
    tags = str(group.condition) if isinstance(group.condition, Selected) else ""
    return f"{served_name(group)} on {tags}" if tags else served_name(group)


def no_worker(name: str, model: str, replicas: Sequence[Replica], why: str = "no worker serves it now") -> NoWorker:
    """`why`: for a model without replicas."""
    workers = {replica.worker.id: replica.worker for replica in replicas}.values()
    if workers:
        states = Counter(_state(worker) for worker in workers)
        why = "its workers are out: " + ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        notes = {note for worker in workers if (note := worker.set_aside or worker.last_report.note)}
        if len(notes) == 1:
            why += f" ({notes.pop()})"
    return NoWorker(f"no worker is available for model '{name}': {why}", model=model, retry_after=RETRY_AFTER)


def _state(worker: Worker) -> str:
    if worker.set_aside:
        return "set aside"
    if worker.down:
        return "down"
    return DRAINING_ASKED if worker.drained and worker.serving else str(worker.state)


@lru_cache(maxsize=4096)
def listed_name(name: str) -> str:
    """Return the name as Ollama lists it."""
    try:
        return parse(name).short
    except InvalidName:
        return name
