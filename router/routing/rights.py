"""The models that an API key may use, by name. Pure.

A list of names allows an entry of the routing file under each of its names if it has one of them: its name, an alias,
or a pattern that matches either. `*` in a pattern stands for any characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from vllama_pool.config.names import MAX_CACHED_LENGTH, InvalidName, lookup_key, parse

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
        self._exact = frozenset(lookup_key(name) for name in models if "*" not in name)
        self._patterns = tuple(tuple(name.lower().split("*")) for name in models if "*" in name)

    def allows(self, name: str) -> bool:
        if lookup_key(name) in self._exact:
            return True
        return bool(self._patterns) and any(
            _matches(parts, text) for text in _spellings(name) for parts in self._patterns
        )


def _spellings(name: str) -> tuple[str, ...]:
    """Return the lower-case forms that patterns are compared with: without the default parts, with and without the
    tag "latest"."""
    try:
        short = parse(name).short.lower()
    except InvalidName:
        return (name.lower(),)
    bare = short.removesuffix(":latest")
    return (short,) if bare == short else (bare, short)


def _matches(parts: tuple[str, ...], text: str) -> bool:
    """True if the parts are in the text in order, the first at its begin and the last at its end. Takes linear time."""
    first, *middle, last = parts
    if len(text) < len(first) + len(last) or not (text.startswith(first) and text.endswith(last)):
        return False
    position, end = len(first), len(text) - len(last)
    for part in middle:
        position = text.find(part, position, end)
        if position < 0:
            return False
        position += len(part)
    return True
