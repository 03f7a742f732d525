"""Replays recorded requests through a routing table, and compares where they go with where they went. Pure.

A request whose target is drawn at random counts for each target by its share. One that keeps its side counts whole, if
the recording has the identity that decides.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.errors import NoWorker
from vllama_pool.router.routing.resolution import Resolution, UnknownModel
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.routing.rights import Rights
from vllama_pool.router.routing.splits import PER_REQUEST, identity_hash

LEAST_MOVE = 1e-9
"""Requests. Smaller differences of shares are rounding."""


SHORTENED = ("chat", "generate", "embed")
"""Begins of the operations whose prompts are shortened to the context, as in Ollama."""


class Recorded(msgspec.Struct, frozen=True):
    """The fields of a recorded decision that routes depend on."""

    requested: str
    model: str = ""
    """The entry, or the served model."""
    served: str = ""
    """The served model that answered."""
    target: str = ""
    """The target that was drawn; "" if the request was refused."""
    shares: dict[str, float] = {}
    """Of all targets, if the draw was random."""
    virtual: str = ""
    """The virtual model that was requested."""
    key: str = ""
    split: str = ""
    identity: str = ""
    """In hex digits; "" without one."""
    operation: str = ""
    prompt_tokens: int = 0


class Destination(NamedTuple):
    """The way of one request through a table."""

    rule: str
    """The entry, or the served model."""
    shares: Mapping[str, float]
    """Of each served model. They sum to 1; empty if the request is refused."""
    refused: str = ""
    """Why."""

    @property
    def is_exact(self) -> bool:
        return len(self.shares) <= 1


class Move(NamedTuple):
    """Requests for one name that change their target."""

    requested: str
    rule_before: str
    rule_after: str
    before: str
    """The target."""
    after: str


class Refusal(NamedTuple):
    """Requests for one name that become unroutable."""

    requested: str
    rule_before: str
    reason: str


class RuleChange(NamedTuple):
    """Requests for one name that another rule decides on, whatever their target."""

    requested: str
    before: str
    after: str


@dataclass(slots=True)
class Comparison:
    """Requests by what becomes of them."""

    requests: int = 0
    unchanged: float = 0.0
    moves: dict[Move, float] = field(default_factory=lambda: defaultdict(float))
    drawn: set[Move] = field(default_factory=set)
    """Those of the moves that are shares of a random draw, at least in part."""
    refusals: Counter[Refusal] = field(default_factory=Counter)
    refused_keys: defaultdict[Refusal, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    admitted: Counter[str] = field(default_factory=Counter)
    """By name: refused before, routed after."""
    still_refused: int = 0
    rules: Counter[RuleChange] = field(default_factory=Counter)
    by_name: Counter[str] = field(default_factory=Counter)
    """All requests."""

    @property
    def moved(self) -> float:
        return sum(self.moves.values())


class Replay:
    """Sends recorded requests through one table."""

    def __init__(self, routes: ModelRoutes, pool: Pool, rights: Callable[[str], Rights | None]) -> None:
        """`rights`: of an API key, by its name."""
        self._routes = routes
        self._pool = pool
        self._rights = rights

    def destination(self, recorded: Recorded) -> Destination:
        try:
            resolution = self._routes.resolve(self._name(recorded), self._pool, self._rights(recorded.key))
        except UnknownModel:
            return Destination("", {}, "unknown model")
        except NoWorker as error:
            return Destination(error.model, {}, error.text)
        rule = resolution.model if resolution.asked is None else resolution.asked.resolution.model
        limits = resolution.entry.limits if resolution.entry is not None else None
        if limits is not None and limits.context is not None and recorded.prompt_tokens > limits.context:
            larger = resolution.next("context", ())
            if larger is not None:
                return Destination(rule, {larger.target: 1.0})
            if not recorded.operation.startswith(SHORTENED):
                return Destination(rule, {}, f"prompts longer than the limit of {limits.context} tokens")
        return Destination(rule, _shares(resolution, recorded))

    def _name(self, recorded: Recorded) -> str:
        """Return the name that routes: of a virtual model its base's, unless the table has the name itself."""
        if recorded.virtual and self._routes.rules.find(recorded.requested) is None:
            return recorded.model
        return recorded.requested


def recorded_destination(recorded: Recorded) -> Destination:
    """Return where the request went."""
    if not recorded.target:
        return Destination(recorded.model, {}, "refused")
    return Destination(recorded.model, recorded.shares or {recorded.target: 1.0})


def compare(
    records: Iterable[Recorded], before: Callable[[Recorded], Destination], after: Callable[[Recorded], Destination]
) -> Comparison:
    comparison = Comparison()
    for recorded in records:
        comparison.requests += 1
        comparison.by_name[recorded.requested] += 1
        _compare_one(comparison, recorded, before(recorded), after(recorded))
    return comparison


def flows(before: Mapping[str, float], after: Mapping[str, float]) -> Iterator[tuple[str, str, float]]:
    """Yield the least changes that turn one distribution into the other: from, to, share."""
    losses = {name: share - after.get(name, 0.0) for name, share in before.items() if share > after.get(name, 0.0)}
    gains = {name: share - before.get(name, 0.0) for name, share in after.items() if share > before.get(name, 0.0)}
    total = sum(losses.values())
    if total < LEAST_MOVE:
        return
    for loser, loss in losses.items():
        for gainer, gain in gains.items():
            yield loser, gainer, loss * gain / total


def _compare_one(comparison: Comparison, recorded: Recorded, before: Destination, after: Destination) -> None:
    requested = recorded.requested
    if before.refused:
        if after.refused:
            comparison.still_refused += 1
        else:
            comparison.admitted[requested] += 1
        return
    if after.refused:
        refusal = Refusal(requested, before.rule, after.refused)
        comparison.refusals[refusal] += 1
        comparison.refused_keys[refusal][recorded.key] += 1
        return
    if before.rule != after.rule:
        comparison.rules[RuleChange(requested, before.rule, after.rule)] += 1
    moved = 0.0
    for source, target, share in flows(before.shares, after.shares):
        move = Move(requested, before.rule, after.rule, source, target)
        comparison.moves[move] += share
        moved += share
        if not (before.is_exact and after.is_exact):
            comparison.drawn.add(move)
    comparison.unchanged += 1 - moved


def _shares(resolution: Resolution, recorded: Recorded) -> Mapping[str, float]:
    if resolution.split == PER_REQUEST:
        return resolution.shares
    identity = _identity(resolution.split, recorded)
    return {resolution.drawn(identity).target: 1.0} if identity else resolution.shares


def _identity(split: str, recorded: Recorded) -> int:
    """Return the recorded identity if the table splits by the same trait; 0 if it is not known."""
    if split == "key" and recorded.key:
        return identity_hash(recorded.key)
    return int(recorded.identity, 16) if recorded.identity and recorded.split == split else 0
