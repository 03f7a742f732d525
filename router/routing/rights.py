"""The models that an API key may use, by name. Pure.

A list of names allows an entry of the routing file under each of its names if it has one of them: its name, an alias,
or a pattern that matches either. `*` in a pattern stands for any characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from vllama_pool.config.names import MAX_CACHED_LENGTH, lookup_key
from vllama_pool.config.patterns import is_pattern
from vllama_pool.router.routing.pattern_index import PatternIndex

if TYPE_CHECKING:
    from vllama_pool.config.routing.schema import RoutingFile

REMEMBERED_NAMES = 256
"""Names, in the clients' spellings, of which each `Rights` remembers its answer."""

NamesOf = Callable[[str], Iterable[str]]
"""Returns the names and aliases of the entry that a name finds; nothing for one outside the routing file."""


class Rights:
    """The names that all of some lists allow: a key's and its team's.

    Equal for all requests of the key. A name that exists and one that does not take the same path.
    """

    __slots__ = ("_lists", "_names_of", "_remembered")

    def __init__(self, lists: Iterable[NameList], names_of: NamesOf) -> None:
        self._lists = tuple(lists)
        self._names_of = names_of
        self._remembered = lru_cache(maxsize=REMEMBERED_NAMES)(self._decide)

    def __repr__(self) -> str:
        return f"<Rights by {len(self._lists)} lists>"

    def allows(self, name: str) -> bool:
        """`name`: in any spelling. Of a virtual model, ask for its base."""
        return self._remembered(name) if len(name) <= MAX_CACHED_LENGTH else self._decide(name)

    def _decide(self, name: str) -> bool:
        names = (name, *self._names_of(name))
        return all(any(each.allows(known) for known in names) for each in self._lists)


class NameList:
    """Names and patterns of a key's or team's `models`."""

    __slots__ = ("_exact", "_patterns")

    def __init__(self, models: Iterable[str]) -> None:
        models = tuple(models)
        self._exact = frozenset(lookup_key(name) for name in models if not is_pattern(name))
        self._patterns = PatternIndex((name, None) for name in models if is_pattern(name))

    def allows(self, name: str) -> bool:
        key = lookup_key(name)
        return key in self._exact or self._patterns.find(key) is not None


class TableRights:
    """The rights of the keys of a routing file. Those with the same models share what they remember."""

    def __init__(self, file: RoutingFile, names_of: NamesOf) -> None:
        """`names_of`: of the same file."""
        self._keys = file.keys or {}
        self._teams = file.teams or {}
        self._names_of = names_of
        self._made: dict[tuple[tuple[str, ...], ...], Rights] = {}

    def of_key(self, name: str) -> Rights | None:
        """Return None for all models, also for a key that the file does not have."""
        key = self._keys.get(name)
        team = self._teams.get(key.team) if key is not None and key.team is not None else None
        limiting = tuple(each.models for each in (key, team) if each is not None and each.models is not None)
        if not limiting:
            return None
        rights = self._made.get(limiting)
        if rights is None:
            rights = self._made[limiting] = Rights(map(NameList, limiting), self._names_of)
        return rights
