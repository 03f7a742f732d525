"""Finds the first of many patterns that matches a name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeAlias, TypeVar

from vllama_pool.config.patterns import STAR, Captures, Pattern, spellings

FEW = 4
"""Patterns that are tried one after the other; more are divided further."""
SLICE = 4
"""Characters of an inner part by which patterns without a fixed begin and end are found."""

T = TypeVar("T")


Found: TypeAlias = tuple[int, T, Captures]
"""The pattern's place in the file, its value, and the texts that its stars matched."""
_Entry: TypeAlias = tuple[int, Pattern, T]


class PatternIndex(Generic[T]):
    """Finds the first of many patterns that matches, in a time that hardly depends on their number.

    Patterns are divided by their fixed begin, those with the same begin by their end, and those with the same begin
    and end by an inner part.
    """

    def __init__(self, patterns: Iterable[tuple[str, T]]) -> None:
        entries = [(order, Pattern(text), value) for order, (text, value) in enumerate(patterns)]
        self._size = len(entries)
        tagged = [entry for entry in entries if entry[1].sees_tag]
        self._begins = _by_begin(entries), _by_begin(tagged)
        """For a name's first spelling, and for the second."""

    def __len__(self) -> int:
        return self._size

    def find(self, key: str) -> Found[T] | None:
        """`key`: the name's `lookup_key`."""
        best: Found[T] | None = None
        for name, by_begin in zip(spellings(key), self._begins, strict=False):
            text = name.lower() if name.isascii() else name
            for length, begins in by_begin:
                begin = begins.get(text[:length])
                if begin is not None:
                    best = begin.find(name, text, best)
        return best


class _Begin(Generic[T]):
    """Patterns with the same begin."""

    __slots__ = ("_ends", "_few")

    def __init__(self, entries: Sequence[_Entry[T]]) -> None:
        self._few = entries if len(entries) <= FEW else ()
        ends = [] if self._few else list(entries)
        self._ends = _divided(ends, [pattern.last for _, pattern, _ in ends], _Ends[T])

    def find(self, name: str, text: str, best: Found[T] | None) -> Found[T] | None:
        best = _first_match(self._few, name, best)
        for length, ends in self._ends:
            end = ends.get(text[len(text) - length :] if length <= len(text) else STAR)
            if end is not None:
                best = end.find(name, text, best)
        return best


class _Ends(Generic[T]):
    """Patterns with the same begin and end."""

    __slots__ = ("_few", "_slices")

    def __init__(self, entries: Sequence[_Entry[T]]) -> None:
        inner = {order: max(pattern.middle, key=len, default="")[:SLICE] for order, pattern, _ in entries}
        divided = len(entries) > FEW
        self._few = [entry for entry in entries if not (divided and inner[entry[0]])]
        others = [entry for entry in entries if divided and inner[entry[0]]]
        self._slices = _divided(others, [inner[order] for order, _, _ in others], list)

    def find(self, name: str, text: str, best: Found[T] | None) -> Found[T] | None:
        best = _first_match(self._few, name, best)
        for length, slices in self._slices:
            for part in {text[start : start + length] for start in range(len(text) - length + 1)} & slices.keys():
                best = _first_match(slices[part], name, best)
        return best


def _first_match(entries: Iterable[_Entry[T]], name: str, best: Found[T] | None) -> Found[T] | None:
    """Return the first match before `best`, or `best`. `entries` are in the file's order."""
    for order, pattern, value in entries:
        if best is not None and order >= best[0]:
            return best
        captures = pattern.match(name)
        if captures is not None:
            return order, value, captures
    return best


_G = TypeVar("_G")


def _divided(
    entries: Sequence[_Entry[T]], parts: Sequence[str], build: Callable[[list[_Entry[T]]], _G]
) -> tuple[tuple[int, Mapping[str, _G]], ...]:
    """Group entries by their parts, and those by length."""
    groups: dict[str, list[_Entry[T]]] = {}
    for entry, part in zip(entries, parts, strict=True):
        groups.setdefault(part, []).append(entry)
    by_length: dict[int, dict[str, _G]] = {}
    for part, group in groups.items():
        by_length.setdefault(len(part), {})[part] = build(group)
    return tuple(sorted(by_length.items()))


def _by_begin(entries: Sequence[_Entry[T]]) -> tuple[tuple[int, Mapping[str, _Begin[T]]], ...]:
    return _divided(entries, [pattern.first for _, pattern, _ in entries], _Begin[T])
