"""Workers that would serve what a routing file names, to follow its rules without a router. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from vllama_pool.router.routing.rules import REASONS, Rules
from vllama_pool.workers.registry.record import ModelInfo, WorkerRecord

if TYPE_CHECKING:
    from vllama_pool.config.routing.model_entry import Selector

Wanted = tuple[str, tuple[str, ...]]
"""A served model, and the tags of a worker that its entry selects."""


def assumed_workers(rules: Rules, names: Iterable[str], served: Iterable[str] = ()) -> list[WorkerRecord]:
    """Return a worker for each target and fallback of the rules that `names` find, and for the `served` models."""
    wanted: dict[Wanted, None] = dict.fromkeys((model, ()) for model in served)
    for name in names:
        wanted.update(dict.fromkeys(_wanted(rules, name)))
    return [
        WorkerRecord(
            id=f"assumed-{number}", generation=1, url="http://127.0.0.1", models=(ModelInfo(name=model),), tags=tags
        )
        for number, (model, tags) in enumerate(wanted)
    ]


def _wanted(rules: Rules, name: str) -> Iterator[Wanted]:
    yield from _targets(rules, name)
    for reason in REASONS:
        for fallback in rules.chain(name, reason):
            yield from _targets(rules, fallback)
            if rules.find(fallback) is None:
                yield fallback, ()


def _targets(rules: Rules, name: str) -> Iterator[Wanted]:
    match = rules.find(name)
    if match is not None:
        for target, served in match.served(name):
            yield served, _tags(target.workers or match.rule.entry.workers)


def _tags(selector: Selector | None) -> tuple[str, ...]:
    """Return tags that the selector accepts, if any do."""
    if selector is None:
        return ()
    allowed = [tag for tag in selector.any if tag not in selector.exclude]
    return (*selector.require, *allowed[:1])
