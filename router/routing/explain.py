"""Explains where a request for a model would go, by the router's own functions. Pure, and without effect on them."""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from vllama_pool.config.names import lookup_key
from vllama_pool.router.balance.demand import PLAIN, Demand
from vllama_pool.router.balance.examine import CandidateView
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.errors import NoWorker
from vllama_pool.router.routing.asker import Asker
from vllama_pool.router.routing.resolution import Absent, Resolution, UnknownModel, served_name
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.routing.rights import Rights
from vllama_pool.router.routing.rules import REASONS, Match
from vllama_pool.router.routing.splits import shares_of

MAX_NEAR = 5
"""Names that are suggested in place of an unknown one."""
ROUTED, WAITS, REFUSED, UNKNOWN = "routed", "waits", "refused", "unknown"
BY_NAME, BY_ALIAS, BY_PATTERN, SERVED, VIRTUAL = "name", "alias", "pattern", "served", "virtual"


@dataclass(frozen=True, slots=True)
class Subject:
    """The request to explain."""

    name: str
    asker: Asker
    demand: Callable[[Resolution], Demand] = lambda resolution: PLAIN
    """Returns what the choice of its worker depends on."""
    rights: Rights | None = None
    """Of its API key."""


class RuleView(msgspec.Struct, frozen=True, omit_defaults=True):
    """The entry that decides, and why it does."""

    entry: str
    """Its name; the served model if there is no entry."""
    by: str
    """name, alias or pattern of the entry; served: a model that workers serve, without an entry."""
    matched: str = ""
    """The alias or pattern in the file."""
    captures: tuple[str, ...] = ()
    """The texts of the pattern's stars."""
    place: str = ""
    """FILE:LINE."""
    virtual: str = ""
    """The virtual model that was asked for; the rule is its base's."""
    policy: str = ""
    settings: dict[str, Any] = {}
    """The entry's options, limits and so on."""


class TargetView(msgspec.Struct, frozen=True, omit_defaults=True):
    model: str
    weight: int
    share: float
    """Of the requests that it gets first."""
    workers: int
    """In any state; 0 if none serves it."""
    selector: dict[str, Any] = {}
    """Tags of the workers."""
    first: bool = False
    """This request's."""


class FallbackView(msgspec.Struct, frozen=True, omit_defaults=True):
    """The models that would answer instead, for one reason."""

    reason: str
    chain: tuple[str, ...]
    """In order."""
    serving: tuple[str, ...] = ()
    """Those with a worker now; the first of them would be taken."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    requested: str
    outcome: str
    """routed; waits: for a worker to join; refused: no worker, or set aside; unknown."""
    error: str = ""
    """Of a request that is not routed, and why one waits."""
    waiting: int = 0
    """Requests of the model that wait in the router process that answers. Not counted by `explain`."""
    near: tuple[str, ...] = ()
    """Known names that resemble an unknown one. Not searched by `explain`."""
    revision: str = ""
    """Of the routing file."""
    rule: RuleView | None = None
    stand_in: str = ""
    """The fallback that answers, because no worker serves the model itself."""
    split: str = ""
    """The trait that keeps its side of several targets; "request" if each request is drawn anew."""
    identity: str = ""
    """Hash of that trait, in 16 hex digits; "" without one."""
    target: str = ""
    """The one that the request gets first, as recorded decisions name it."""
    targets: tuple[TargetView, ...] = ()
    """Of the entry that answers."""
    chosen: str = ""
    """The worker that the next such request gets. Equal workers are drawn at random."""
    chosen_model: str = ""
    """The name that the worker serves."""
    candidates: tuple[CandidateView, ...] = ()
    """All replicas, by target."""
    fallbacks: tuple[FallbackView, ...] = ()


def explain(routes: ModelRoutes, pool: Pool, subject: Subject, now: float, rng: random.Random) -> Explanation:
    """Explain what the router does with the next such request. `rng`: the router's, whose state stays."""
    state = rng.getstate()
    try:
        return _explain(routes, pool, subject, now, rng)
    finally:
        rng.setstate(state)


def _explain(routes: ModelRoutes, pool: Pool, subject: Subject, now: float, rng: random.Random) -> Explanation:
    name = subject.name
    routed = routes.routed_name(name, pool)
    try:
        resolution = routes.resolve(name, pool, subject.rights)
    except UnknownModel:
        forbidden = subject.rights is not None and not subject.rights.allows(routed)
        text = f"the router knows no model '{name}'"
        if forbidden:
            text = f"its API key may not use the model '{name}', which it sees as unknown"
        return Explanation(requested=name, outcome=UNKNOWN, error=text, revision=routes.revision)
    except NoWorker as error:
        return Explanation(
            requested=name,
            outcome=WAITS if isinstance(error, Absent) else REFUSED,
            error=error.text,
            revision=routes.revision,
            rule=_rule(routes, name, routed, error.model),
            targets=_targets(routes, pool, routed, None),
            fallbacks=_fallbacks(routes, routed, None),
        )
    identity = 0
    if resolution.needs_asker:
        identity = resolution.identity(subject.asker)
        resolution = resolution.drawn(identity)
    demand = subject.demand(resolution)
    replica = resolution.peek((), now, rng, demand)
    asked = resolution.asked.resolution if resolution.asked is not None else resolution
    return Explanation(
        requested=name,
        outcome=ROUTED,
        revision=routes.revision,
        rule=_rule(routes, name, routed, asked.model),
        stand_in=resolution.model if resolution.asked is not None else "",
        split=resolution.split if len(resolution.groups) > 1 else "",
        identity=f"{identity:016x}" if identity else "",
        target=resolution.target,
        targets=_targets(routes, pool, _answering(routes, routed, resolution), resolution),
        chosen=replica.worker.id if replica is not None else "",
        chosen_model=replica.model.name if replica is not None else "",
        candidates=resolution.examine((), now, demand),
        fallbacks=_fallbacks(routes, routed, asked),
    )


def known_names(routes: ModelRoutes, pool: Pool, rights: Rights | None) -> list[str]:
    """Return the names that requests may use, without those of patterns."""
    names = {each.name: None for each in routes.list_models(pool, rights)}
    names.update({alias: None for rule in routes.rules.exact for alias in rule.aliases})
    return [name for name in names if rights is None or rights.allows(name)]


def near_names(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return known names that resemble an unknown one. It takes 0.1 s for thousands of names."""
    by_text = {_bare(each).lower(): _bare(each) for each in known}
    found = difflib.get_close_matches(_bare(name).lower(), by_text, n=MAX_NEAR, cutoff=0.6)
    return tuple(by_text[text] for text in found)


def _bare(name: str) -> str:
    return name.removesuffix(":latest")


def _rule(routes: ModelRoutes, name: str, routed: str, model: str) -> RuleView:
    """`routed`: the name that routes, which is not the requested one for a virtual model."""
    match = routes.rules.find(routed)
    virtual = name if routed != name else ""
    if match is None:
        return RuleView(model, SERVED, virtual=virtual, policy=routes.default_policy)
    rule = match.rule
    by, matched = _reason(match, routed)
    return RuleView(
        rule.name,
        by,
        matched,
        match.captures,
        str(rule.place) if rule.place is not None else "",
        virtual,
        rule.entry.policy_name,
        rule.entry.model_dump(mode="json", exclude_defaults=True, exclude={"serve", "split", "aliases", "fallback"}),
    )


def _reason(match: Match, name: str) -> tuple[str, str]:
    rule, key = match.rule, lookup_key(name)
    alias = next((alias for alias in rule.aliases if lookup_key(alias) == key), "")
    if alias and key != rule.key:
        return BY_ALIAS, alias
    return (BY_PATTERN, rule.name) if rule.is_pattern else (BY_NAME, "")


def _answering(routes: ModelRoutes, name: str, resolution: Resolution) -> str:
    """Return the name of the model that answers: of a fallback as the file has it."""
    if resolution.asked is None:
        return name
    chain = routes.rules.chain(name, resolution.asked.reason)
    return next((each for each in chain if routes.rules.key(each) == resolution.key), resolution.model)


def _targets(routes: ModelRoutes, pool: Pool, name: str, resolution: Resolution | None) -> tuple[TargetView, ...]:
    match = routes.rules.find(name)
    if match is None:
        groups = resolution.groups if resolution is not None else ()
        return tuple(TargetView(served_name(group), 1, 1.0, len(group), first=True) for group in groups)
    groups_by_target = dict(routes.targets(match, name, pool))
    served = dict(match.served(name))
    drawn = [target for target, group in groups_by_target.items() if len(group)]
    shares = dict(zip(drawn, shares_of([target.weight for target in drawn]), strict=True))
    groups = resolution.groups if resolution is not None else ()
    first = next((group for group in groups if len(group)), None)
    entry_selector = match.rule.entry.workers
    views = []
    for target, model in served.items():
        group = groups_by_target.get(target)
        selector = target.workers or entry_selector
        views.append(
            TargetView(
                served_name(group) if group is not None else model,
                target.weight,
                round(shares.get(target, 0.0), 4),
                len(group) if group is not None else 0,
                selector.model_dump(mode="json", exclude_defaults=True) if selector is not None else {},
                group is not None and group is first,
            )
        )
    return tuple(views)


def _fallbacks(routes: ModelRoutes, name: str, asked: Resolution | None) -> tuple[FallbackView, ...]:
    views = []
    for reason in REASONS:
        chain = routes.rules.chain(name, reason)
        if chain:
            serving = tuple(_serving(asked, reason)) if asked is not None else ()
            views.append(FallbackView(reason, chain, serving))
    return tuple(views)


def _serving(asked: Resolution, reason: Any) -> Iterator[str]:
    tried: list[str] = []
    while (resolution := asked.next(reason, tried)) is not None:
        tried.append(resolution.key)
        yield resolution.model
