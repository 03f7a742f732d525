"""The routing file's entries, compiled for lookups: names and aliases first, then patterns in the file's order."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from vllama_pool.config.names import lookup_key
from vllama_pool.config.patterns import Captures, is_pattern
from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.config.routing.table import Place, RoutingTable
from vllama_pool.router.routing.pattern_index import PatternIndex
from vllama_pool.router.routing.splits import PER_REQUEST

if TYPE_CHECKING:
    from vllama_pool.config.routing.model_entry import ModelEntry, Reason, Target

REASONS: tuple[Reason, ...] = ("no_worker", "overloaded", "context", "error")

ASKING_POLICIES = frozenset({"session"})
MAX_CHAIN = 20
"""Models in a chain of fallbacks."""

_CAPTURE = re.compile(r"\{([1-9])\}")


class Rule:
    """One entry of the table."""

    __slots__ = ("aliases", "defaults", "entry", "is_pattern", "key", "name", "place", "shadow", "targets")

    def __init__(self, name: str, entry: ModelEntry, place: Place | None) -> None:
        self.name = name
        self.entry = entry
        self.place = place
        """File and line; None for a table without a file."""
        self.is_pattern = is_pattern(name)
        self.key = lookup_key(name)
        self.aliases = tuple(alias.strip() for alias in entry.aliases or ())
        self.targets: tuple[Target, ...] = entry.targets(name)
        self.defaults = Defaults.of(entry)
        self.shadow = entry.shadow

    def __repr__(self) -> str:
        return f"<Rule {self.name}>"

    @property
    def reads_asker(self) -> bool:
        """True if its targets or policy depend on traits of the request."""
        return self.entry.split != PER_REQUEST or self.entry.policy_name in ASKING_POLICIES

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


class Match(NamedTuple):
    """The rule that a name finds."""

    rule: Rule
    captures: Captures = ()
    """The texts that a pattern's stars matched."""

    @property
    def follows_name(self) -> bool:
        """True for a pattern that serves each name under a model of its own."""
        rule = self.rule
        return rule.is_pattern and (
            rule.entry.serve is None or any(_CAPTURE.search(target.model) for target in rule.targets)
        )

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

    def __init__(self, table: RoutingTable) -> None:
        places = table.places
        rules = [Rule(name.strip(), entry, places.get(("models", name))) for name, entry in table.models.items()]
        self.exact: Sequence[Rule] = tuple(rule for rule in rules if not rule.is_pattern)
        """In the file's order."""
        self.patterns: Sequence[Rule] = tuple(rule for rule in rules if rule.is_pattern)
        self._spelled: dict[str, Match] = {}
        self._by_key: dict[str, Match] = {}
        for rule in rules:
            match = Match(rule)
            for name in rule.names if not rule.is_pattern else rule.aliases:
                self._spelled.setdefault(name, match)
                self._by_key.setdefault(lookup_key(name), match)
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
                    return Match(found.value, found.captures)
        return match

    def chain(self, name: str, reason: Reason) -> tuple[str, ...]:
        """Return the names that may answer instead, in order: the rule's own fallbacks, then those of each of them.

        None is repeated.
        """
        chain: list[str] = []
        seen = {self.key(name)}
        waiting = deque(self._fallbacks(name, reason))
        while waiting and len(chain) < MAX_CHAIN:
            fallback = waiting.popleft()
            key = self.key(fallback)
            if key not in seen:
                seen.add(key)
                chain.append(fallback)
                waiting.extend(self._fallbacks(fallback, reason))
        return tuple(chain)

    def needs_asker(self, name: str) -> bool:
        """True if the rule for a name, or one of its fallbacks, depends on traits of the request."""
        match = self.find(name)
        if match is None:
            return False
        if match.rule.reads_asker or match.rule.entry.fallback is None:
            return match.rule.reads_asker
        names = {each for reason in REASONS for each in self.chain(name, reason)}
        return any(found.rule.reads_asker for each in names if (found := self.find(each)) is not None)

    def key(self, name: str) -> str:
        """Return the key that all names of one rule have in common; a name's own under a pattern or without a rule."""
        match = self.find(name)
        return lookup_key(name) if match is None or match.rule.is_pattern else match.rule.key

    def _fallbacks(self, name: str, reason: Reason) -> tuple[str, ...]:
        match = self.find(name)
        return match.fallbacks(reason) if match is not None else ()
