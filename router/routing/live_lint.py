"""Remarks on a routing file beside the workers that are live: what names nothing that they serve or have. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from vllama_pool.config.names import lookup_key
from vllama_pool.config.patterns import is_pattern
from vllama_pool.config.printable import shortlist
from vllama_pool.config.routing.table import KeyPath, RoutingTable
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.routing.lint import Remark, fallback_lists, selectors
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.routing.rights import NameList

if TYPE_CHECKING:
    from vllama_pool.config.routing.schema import Team


@dataclass(frozen=True)
class Live:
    """A table beside live workers."""

    table: RoutingTable
    routes: ModelRoutes
    pool: Pool

    @cached_property
    def tags(self) -> frozenset[str]:
        return frozenset(tag for worker in self.pool for tag in worker.record.tags)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All names that a list of models may mean."""
        rules = self.routes.rules.by_name.values()
        served = {name for worker in self.pool for model in worker.record.models for name in model.names}
        return (*(name for rule in rules for name in rule.names), *sorted(served))

    def is_known(self, name: str) -> bool:
        """True for an entry and for a served model."""
        return self.routes.find_base(name, self.pool) is not None


def live_lint(live: Live) -> tuple[Remark, ...]:
    """Return all remarks, by the order of the checks."""
    return tuple(remark for check in CHECKS for remark in check(live))


def unserved_targets(live: Live) -> Iterator[Remark]:
    for name, entry in live.table.models.items():
        match = live.routes.rules.find(name)
        if is_pattern(name) or match is None:
            continue
        groups = dict(live.routes.targets(match, name, live.pool))
        for index, target in enumerate(entry.targets(name)):
            path: KeyPath = ("models", name, "serve", *((index,) if isinstance(entry.serve, tuple) else ()))
            if target not in groups and match.rule.from_zero:
                continue  # its requests wait for a worker
            if target not in groups:
                yield Remark(path, f"no live worker serves '{target.model}'; start one, or correct the name")
            elif not len(groups[target]):
                yield Remark(path, f"no live worker that serves '{target.model}' has the tags; correct the selector")


def idle_patterns(live: Live) -> Iterator[Remark]:
    """Patterns that serve each name by itself, and match no served one."""
    rules = live.routes.rules
    found = {match.rule.name for name in live.pool.served() if (match := rules.find(name)) is not None}
    for rule in rules.patterns:
        if rule.entry.serve is None and rule.name not in found:
            yield Remark(("models", rule.name), "matches no model that a live worker serves; correct the pattern")


def hidden_served_names(live: Live) -> Iterator[Remark]:
    """Patterns that send the names of served models to other models."""
    hidden: dict[str, list[str]] = {}
    for name in live.pool.served():
        match = live.routes.rules.find(name)
        if match is None or not match.rule.is_pattern:
            continue
        if all(lookup_key(model) != lookup_key(name) for _, model in match.served(name)):
            hidden.setdefault(match.rule.name, []).append(name)
    for pattern, names in hidden.items():
        shown = shortlist([f"'{name}'" for name in names], 1)
        message = f"hides {shown}, which live workers serve: requests by that name go to other models"
        yield Remark(("models", pattern), f"{message}; write a narrower pattern, or an entry of that name")


def unknown_fallbacks(live: Live) -> Iterator[Remark]:
    for name, entry in live.table.models.items():
        for path, fallbacks in fallback_lists(name, entry):
            for index, fallback in enumerate(fallbacks):
                if "{" not in fallback and not live.is_known(fallback):
                    message = f"'{fallback}' is not an entry, and no live worker serves it"
                    yield Remark((*path, index), f"{message}; start a worker, or correct the name")


def unknown_shadows(live: Live) -> Iterator[Remark]:
    for name, entry in live.table.models.items():
        if entry.shadow is not None and not live.is_known(entry.shadow.model):
            message = f"'{entry.shadow.model}' is not an entry, and no live worker serves it"
            yield Remark(("models", name, "shadow", "model"), f"{message}; start a worker, or correct the name")


def unknown_tags(live: Live) -> Iterator[Remark]:
    for path, selector in selectors(live.table):
        for key in ("require", "any", "exclude", "prefer"):
            yield from _missing_tags(live, (*path, key), getattr(selector, key))
    for index, maintenance in enumerate(live.table.entries.maintenance):
        yield from _missing_tags(live, ("maintenance", index, "tags"), maintenance.tags)


def unknown_workers(live: Live) -> Iterator[Remark]:
    """Workers of `maintenance` that do not exist, and static workers that the router does not know yet."""
    known = {name for worker in live.pool for name in (worker.id, worker.record.url)}
    labels = {entry.label for entry in live.table.workers}
    for index, entry in enumerate(live.table.workers):
        if entry.url not in known:
            message = "the running router does not know this worker, so that its models are not checked"
            yield Remark(("workers", index), f"{message}; check again after the reload")
    for index, maintenance in enumerate(live.table.entries.maintenance):
        for position, worker in enumerate(maintenance.workers):
            if worker not in known and worker not in labels:
                yield Remark(
                    ("maintenance", index, "workers", position), f"no live worker has the name '{worker}'; correct it"
                )


def unmatched_rights(live: Live) -> Iterator[Remark]:
    """Names and patterns of keys and teams that allow no model."""
    for path, models in _model_lists(live.table):
        for index, model in enumerate(models):
            allowed = NameList([model])
            if not any(map(allowed.allows, live.names)) and (is_pattern(model) or not live.is_known(model)):
                message = f"'{model}' allows no entry, and no model that a live worker serves"
                yield Remark((*path, index), f"{message}; correct it, or remove it")


CHECKS = (
    unserved_targets,
    idle_patterns,
    hidden_served_names,
    unknown_fallbacks,
    unknown_shadows,
    unknown_tags,
    unknown_workers,
    unmatched_rights,
)


def _missing_tags(live: Live, path: KeyPath, tags: Iterable[str]) -> Iterator[Remark]:
    static = {tag for worker in live.table.workers for tag in worker.tags}
    for index, tag in enumerate(tags):
        if tag not in live.tags and tag not in static:
            yield Remark((*path, index), f"no live worker has the tag '{tag}'; correct it, or start one with it")


def _model_lists(table: RoutingTable) -> Iterator[tuple[KeyPath, tuple[str, ...]]]:
    entries = table.entries
    holders: dict[str, Mapping[str, Team]] = {"teams": entries.teams or {}, "keys": entries.keys or {}}
    for kind, named in holders.items():
        for name, holder in named.items():
            yield (kind, name, "models"), holder.models or ()
