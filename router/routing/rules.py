"""The routing file's entries, compiled for lookups: names and aliases first, then patterns in the file's order."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from vllama_pool.config.names import lookup_key
from vllama_pool.config.patterns import Captures, is_pattern
from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.config.routing.table import Place, RoutingTable
from vllama_pool.router.routing.pattern_index import PatternIndex
from vllama_pool.router.routing.splits import PER_REQUEST, seeds_of

if TYPE_CHECKING:
    from vllama_pool.config.routing.model_entry import ModelEntry, Reason, Target

REASONS: tuple[Reason, ...] = ("no_worker", "overloaded", "context", "error")

ASKING_POLICIES = frozenset({"session"})
MAX_CHAIN = 20
"""Models in a chain of fallbacks."""

ANY_NAME = "{1}"
_CAPTURE = re.compile(r"\{([1-9])\}")


def _has_captures(texts: Iterable[str]) -> bool:
    return any("{" in text and _CAPTURE.search(text) for text in texts)


class Rule:
    """One entry of the table."""

    __slots__ = (
        *("aliases", "defaults", "entry", "follows_name", "is_pattern", "key", "keys", "name", "place", "reads_asker"),
        *("from_zero", "seeds", "shadow", "targets", "varies"),
    )

    def __init__(self, name: str, entry: ModelEntry, place: Place | None) -> None:
        self.name = name
        self.entry = entry
        self.place = place
        """File and line; None for a table without a file."""
        self.is_pattern = is_pattern(name)
        self.key = lookup_key(name)
        self.aliases = tuple(alias.strip() for alias in entry.aliases or ())
        self.keys = (self.key, *map(lookup_key, self.aliases))
        """Of its names."""
        self.targets: tuple[Target, ...] = entry.targets(name)
        self.defaults = Defaults.of(entry)
        self.shadow = entry.shadow
        self.from_zero = entry.scale is not None and entry.scale.from_zero
        """True if its model may be without a worker."""
        several = self.targets if len(self.targets) > 1 else ()
        self.seeds: Mapping[Target, bytes] = dict(zip(several, seeds_of(name, several), strict=True))
        """For draws that keep their side."""
        served = [] if entry.serve is not None else [ANY_NAME]
        self.follows_name = self.is_pattern and _has_captures((*served, *(target.model for target in self.targets)))
        """True for a pattern that serves each name under a model of its own."""
        others = (name for reason in REASONS for name in entry.fallbacks(reason)) if entry.fallback is not None else ()
        self.varies = self.follows_name or (self.is_pattern and _has_captures(others))
        """True for a pattern whose targets or fallbacks depend on the name."""
        self.reads_asker = entry.split != PER_REQUEST or entry.policy_name in ASKING_POLICIES
        """True if its targets or policy depend on traits of the request."""

    def __repr__(self) -> str:
        return f"<Rule {self.name}>"

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    def moved(self, place: Place | None) -> Rule:
        """Return the same rule at another place in the file."""
        if place == self.place:
            return self
        rule = Rule.__new__(Rule)
        for slot in Rule.__slots__:
            setattr(rule, slot, getattr(self, slot))
        rule.place = place
        return rule


class Match(NamedTuple):
    """The rule that a name finds."""

    rule: Rule
    captures: Captures = ()
    """The texts that a pattern's stars matched."""

    def served(self, name: str) -> tuple[tuple[Target, str], ...]:
        """Return the targets with the names of their served models, for a request for `name`."""
        rule = self.rule
        if not rule.is_pattern:
            return tuple((target, target.model) for target in rule.targets)
        if rule.entry.serve is None:
            return tuple((target, name.strip()) for target in rule.targets)
        return tuple((target, self.fill(target.model)) for target in rule.targets)

    def fallbacks(self, reason: Reason) -> tuple[str, ...]:
        return tuple(map(self.fill, self.rule.entry.fallbacks(reason)))

    def fill(self, text: str) -> str:
        """Put the captures in the place of `{1}` and so on."""
        if not self.captures or "{" not in text:
            return text
        return _CAPTURE.sub(self._capture, text)

    def _capture(self, found: re.Match[str]) -> str:
        number = int(found[1])
        return self.captures[number - 1] if number <= len(self.captures) else found[0]


class Rules:
    """Immutable. A lookup takes a few microseconds for thousands of rules, and keeps nothing."""

    def __init__(self, table: RoutingTable, previous: Rules | None = None) -> None:
        """`previous`: rules of another table. Those of the same entries are taken over."""
        before = previous.by_name if previous is not None else {}
        rules = [
            _rule(name.strip(), entry, table.places.get(("models", name)), before)
            for name, entry in table.models.items()
        ]
        self.exact: Sequence[Rule] = tuple(rule for rule in rules if not rule.is_pattern)
        """In the file's order."""
        self.patterns: Sequence[Rule] = tuple(rule for rule in rules if rule.is_pattern)
        self._spelled: dict[str, Match] = {}
        self._by_key: dict[str, Match] = {}
        for rule in rules:
            match, first = Match(rule), int(rule.is_pattern)
            for name, key in zip(rule.names[first:], rule.keys[first:], strict=True):
                self._spelled.setdefault(name, match)
                self._by_key.setdefault(key, match)
        self._index = PatternIndex((rule.name, rule) for rule in self.patterns)

    def __repr__(self) -> str:
        return f"<Rules {len(self.exact)} names, {len(self.patterns)} patterns>"

    @property
    def by_name(self) -> Mapping[str, Rule]:
        return {rule.name: rule for rule in (*self.exact, *self.patterns)}

    def find(self, name: str) -> Match | None:
        """Return the rule for a name in any spelling."""
        match = self._spelled.get(name)
        if match is None:
            key = lookup_key(name)
            match = self._by_key.get(key)
            if match is None and self._index:
                found = self._index.find(key)
                if found is not None:
                    return Match(found[1], found[2])
        return match

    def chain(self, name: str, reason: Reason) -> tuple[str, ...]:
        """Return the names that may answer instead, in order: the rule's own fallbacks, then those of each of them.

        None is repeated.
        """
        match = self.find(name)
        return () if match is None else self.chain_of(match, _key(match, name), reason)

    def chain_of(self, match: Match, key: str, reason: Reason) -> tuple[str, ...]:
        chain: list[str] = []
        seen = {key}
        waiting = deque(match.fallbacks(reason))
        while waiting and len(chain) < MAX_CHAIN:
            fallback = waiting.popleft()
            found = self.find(fallback)
            found_key = _key(found, fallback)
            if found_key not in seen:
                seen.add(found_key)
                chain.append(fallback)
                if found is not None:
                    waiting.extend(found.fallbacks(reason))
        return tuple(chain)

    def key(self, name: str) -> str:
        """Return what all names of one rule have in common; a name's own key where the models depend on the name."""
        return _key(self.find(name), name)

    def needs_asker(self, name: str) -> bool:
        """True if the rule for a name, or one of its fallbacks, depends on traits of the request."""
        match = self.find(name)
        return match is not None and self.asks(match, _key(match, name))

    def asks(self, match: Match, key: str) -> bool:
        if match.rule.reads_asker or match.rule.entry.fallback is None:
            return match.rule.reads_asker
        names = {each for reason in REASONS for each in self.chain_of(match, key, reason)}
        return any(found.rule.reads_asker for each in names if (found := self.find(each)) is not None)


def _rule(name: str, entry: ModelEntry, place: Place | None, before: Mapping[str, Rule]) -> Rule:
    rule = before.get(name)
    return rule.moved(place) if rule is not None and rule.entry is entry else Rule(name, entry, place)


def _key(match: Match | None, name: str) -> str:
    return lookup_key(name) if match is None or match.rule.follows_name else match.rule.key
