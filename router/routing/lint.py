"""Remarks on a valid routing file: what it says, but what has no effect or surprises. Pure.

Each check is a function from the table to its remarks, which `vllama check` shows as warnings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from vllama_pool.config.names import lookup_key
from vllama_pool.config.patterns import Pattern, is_pattern
from vllama_pool.config.routing.table import KeyPath, Place, RoutingTable
from vllama_pool.router.routing.pattern_index import PatternIndex
from vllama_pool.router.routing.rules import REASONS, Rules

if TYPE_CHECKING:
    from vllama_pool.config.routing.model_entry import Limits, ModelEntry, Retries, Selector


class Remark(NamedTuple):
    path: KeyPath
    """Of the key or value at fault."""
    message: str
    """"what is surprising; what to do"."""


def lint(table: RoutingTable) -> tuple[Remark, ...]:
    """Return all remarks, by the order of the checks."""
    return tuple(remark for check in CHECKS for remark in check(table))


def place_of(table: RoutingTable, path: KeyPath) -> Place | None:
    """Return the place of a key, else of the nearest enclosing one; None for a table without a file."""
    while path:
        if path in table.places:
            return table.places[path]
        path = path[:-1]
    return None


def hidden_models(table: RoutingTable) -> Iterator[Remark]:
    """Names and aliases that are the served name of another entry's target: requests by that name change sides."""
    servers: dict[str, str] = {}
    for name, entry in table.models.items():
        for target in entry.targets(name):
            servers.setdefault(lookup_key(target.model), name)
    for name, entry in table.models.items():
        own = {lookup_key(target.model) for target in entry.targets(name)}
        for index, alias in enumerate(entry.aliases or ()):
            server = servers.get(lookup_key(alias))
            if server is not None and server != name and lookup_key(alias) not in own:
                message = f"'{alias}' is also a model that '{server}' serves, whose own name now means '{name}'"
                yield Remark(("models", name, "aliases", index), f"{message}; rename the alias")


def unreachable_patterns(table: RoutingTable) -> Iterator[Remark]:
    """Patterns whose names an earlier one matches, all of them."""
    patterns = [name for name in table.models if is_pattern(name)]
    index = PatternIndex((name, name) for name in patterns)
    for order, name in enumerate(patterns):
        first = index.find(_ANY.join(Pattern(name).parts))
        if first is not None and first[0] < order:
            line = _in_line(table, ("models", first[1]))
            message = f"never applies: '{first[1]}'{line} matches all of its names and comes first"
            yield Remark(("models", name), f"{message}; move it up, or remove it")


def hiding_patterns(table: RoutingTable) -> Iterator[Remark]:
    """Patterns that match the served names of other entries' targets, and send them elsewhere."""
    rules = Rules(table)
    hidden: dict[str, list[tuple[str, str]]] = {}
    for name, entry in table.models.items():
        for target in entry.targets(name) if not is_pattern(name) else ():
            match = rules.find(target.model)
            if match is None or not match.rule.is_pattern:
                continue
            if all(lookup_key(served) != lookup_key(target.model) for _, served in match.served(target.model)):
                hidden.setdefault(match.rule.name, []).append((target.model, name))
    for pattern, models in hidden.items():
        model, owner = models[0]
        more = f", and {len(models) - 1} more" if len(models) > 1 else ""
        message = f"also matches '{model}', which '{owner}' serves{more}: requests by that name come here"
        yield Remark(("models", pattern), f"{message}; write a narrower pattern, or an entry of that name")


def idle_targets(table: RoutingTable) -> Iterator[Remark]:
    for name, entry in table.models.items():
        for index, target in enumerate(entry.targets(name)):
            if target.weight == 0:
                message = "gets requests only while no other target has a worker; write a weight above 0, or remove it"
                yield Remark(("models", name, "serve", index, "weight"), f"0: '{target.model}' {message}")


def idle_splits(table: RoutingTable) -> Iterator[Remark]:
    """Splits of entries with one target that gets requests."""
    for name, entry in table.models.items():
        drawn = [target for target in entry.targets(name) if target.weight]
        if entry.split != "request" and len(drawn) < 2:
            yield Remark(("models", name, "split"), "has no effect on one target; add targets to 'serve', or remove it")


def contradicting_selectors(table: RoutingTable) -> Iterator[Remark]:
    for path, selector in selectors(table):
        excluded = set(selector.exclude)
        if selector.any and excluded.issuperset(selector.any):
            yield Remark((*path, "any"), "all of its tags are excluded, so that no worker matches; remove one")
        for tag in sorted(excluded.intersection(selector.prefer)):
            yield Remark((*path, "prefer"), f"'{tag}' is excluded, so that no worker is preferred for it; remove one")


def useless_fallbacks(table: RoutingTable) -> Iterator[Remark]:
    """Fallbacks to what the entry serves anyway, or listed twice."""
    for name, entry in table.models.items():
        own = {lookup_key(target.model) for target in entry.targets(name)}
        for path, names in fallback_lists(name, entry):
            seen: set[str] = set()
            for index, fallback in enumerate(names):
                key = lookup_key(fallback)
                if key in seen:
                    yield Remark((*path, index), f"'{fallback}' is listed twice; remove one")
                elif key in own:
                    yield Remark((*path, index), f"'{fallback}' is served by this entry anyway; name another model")
                seen.add(key)


def set_aside_fallbacks(table: RoutingTable) -> Iterator[Remark]:
    rules = Rules(table)
    for name, entry in table.models.items():
        for path, names in fallback_lists(name, entry):
            for index, fallback in enumerate(names):
                match = rules.find(fallback)
                if match is not None and match.rule.entry.maintenance is not None:
                    yield Remark(
                        (*path, index), f"'{fallback}' is in maintenance and answers nothing; name another model"
                    )


def idle_limits(table: RoutingTable) -> Iterator[Remark]:
    """Limits and retries without effect."""
    for name, entry in table.models.items():
        for path, message in (*_idle_limits(entry.limits), *_idle_retries(entry.retries)):
            yield Remark(("models", name, *path), message)


def _idle_limits(limits: Limits | None) -> Iterator[tuple[KeyPath, str]]:
    if limits is None:
        return
    if limits.output and limits.context and limits.output >= limits.context:
        message = f"{limits.output} is not less than 'context', {limits.context}, which also holds the prompt"
        yield ("limits", "output"), f"{message}; lower it, or raise 'context'"


def _idle_retries(retries: Retries | None) -> Iterator[tuple[KeyPath, str]]:
    if retries is not None and retries.attempts == 1 and "budget" in retries.model_fields_set:
        yield ("retries", "budget"), "has no effect on one attempt; raise 'attempts', or remove it"


def powerless_keys(table: RoutingTable) -> Iterator[Remark]:
    """Keys that may use no model, because their team allows none of theirs."""
    teams = table.entries.teams or {}
    for name, key in (table.entries.keys or {}).items():
        team = teams.get(key.team or "")
        if team is None or team.models is None or not key.models or any(map(is_pattern, (*key.models, *team.models))):
            continue
        rules = Rules(table)
        if not {rules.key(model) for model in key.models} & {rules.key(model) for model in team.models}:
            message = f"the team '{key.team}' allows none of these models; add one to the team, or correct the key"
            yield Remark(("keys", name, "models"), message)


def useless_shadows(table: RoutingTable) -> Iterator[Remark]:
    for name, entry in table.models.items():
        shadow = entry.shadow
        if shadow is None:
            continue
        if shadow.share == 0:
            yield Remark(("models", name, "shadow", "share"), "0 copies nothing; write a share above 0, or remove it")
        own = {lookup_key(name), *(lookup_key(target.model) for target in entry.targets(name))}
        if lookup_key(shadow.model) in own:
            message = f"'{shadow.model}' is what the entry serves, so that its workers get requests twice"
            yield Remark(("models", name, "shadow", "model"), f"{message}; name another model")


def unused_teams(table: RoutingTable) -> Iterator[Remark]:
    teams = table.entries.teams or {}
    used = {key.team for key in (table.entries.keys or {}).values()}
    for name in teams:
        if name not in used:
            yield Remark(("teams", name), "no key belongs to it; name it as 'team' of a key, or remove it")


_ANY = "\x01"
"""Stands for what a star matches: no pattern has it."""


CHECKS = (
    unreachable_patterns,
    hiding_patterns,
    hidden_models,
    idle_targets,
    idle_splits,
    contradicting_selectors,
    useless_fallbacks,
    set_aside_fallbacks,
    idle_limits,
    powerless_keys,
    useless_shadows,
    unused_teams,
)


def _in_line(table: RoutingTable, path: KeyPath) -> str:
    place = place_of(table, path)
    return f" in {place}" if place else ""


def selectors(table: RoutingTable) -> Iterator[tuple[KeyPath, Selector]]:
    for name, entry in table.models.items():
        if entry.workers is not None:
            yield ("models", name, "workers"), entry.workers
        for index, target in enumerate(entry.targets(name)):
            if target.workers is not None:
                yield ("models", name, "serve", index, "workers"), target.workers


def fallback_lists(name: str, entry: ModelEntry) -> Iterator[tuple[KeyPath, tuple[str, ...]]]:
    path = ("models", name, "fallback")
    if isinstance(entry.fallback, tuple):
        yield path, entry.fallback
    elif entry.fallback is not None:
        for reason in REASONS:
            yield (*path, reason), entry.fallbacks(reason)
