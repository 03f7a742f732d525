"""Finds chains of fallbacks that lead back to where they began.

Reads plain values and skips invalid ones, as `checks` does.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

from vllama_pool.config.names import lookup_key
from vllama_pool.config.patterns import Pattern, is_pattern, spellings
from vllama_pool.config.routing.model_entry import REASONS
from vllama_pool.config.routing.places import Path, Problem, dotted
from vllama_pool.config.routing.yaml_document import Document

Edge = tuple[str, Path]
"""The entry that a fallback leads to, and the place of the fallback."""

_CAPTURE = re.compile(r"\{[1-9]\}")


def fallback_loops(document: Document) -> list[Problem]:
    """Report each loop once, where it closes. The document's top level must be a mapping."""
    models = document.value.get("models")
    entries = {str(name): entry for name, entry in models.items()} if isinstance(models, dict) else {}
    entries = {name: entry for name, entry in entries.items() if isinstance(entry, dict)}
    falling = {name: entry for name, entry in entries.items() if "fallback" in entry}
    if not falling:
        return []
    owner_of = _owners(entries)
    problems: dict[frozenset[str], Problem] = {}
    by_reason = any(isinstance(entry["fallback"], dict) for entry in falling.values())
    for reason in REASONS if by_reason else REASONS[:1]:
        edges = {name: list(_edges(name, entry, reason, owner_of)) for name, entry in falling.items()}
        for names, path in find_loops(edges):
            problem = Problem(document.value_place(path), dotted(path), _describe(names))
            problems.setdefault(frozenset(names), problem)
    return list(problems.values())


def find_loops(edges: Mapping[str, Sequence[Edge]]) -> Iterator[tuple[tuple[str, ...], Path]]:
    """Yield the names of each loop, the first of them again at the end, with the place of its last edge."""
    done: set[str] = set()
    for start in edges:
        trail: dict[str, Iterator[Edge]] = {} if start in done else {start: iter(edges[start])}
        while trail:
            name = next(reversed(trail))
            for target, path in trail[name]:
                if target in trail:
                    names = list(trail)
                    yield (*names[names.index(target) :], target), path
                elif target not in done:
                    trail[target] = iter(edges.get(target, ()))
                    break
            else:
                done.add(name)
                del trail[name]


def _describe(names: tuple[str, ...]) -> str:
    if len(names) == 2:
        return f"'{names[0]}' falls back to itself; name another model"
    return f"the fallbacks lead in a circle: {' -> '.join(names)}; remove one of them"


def _owners(entries: Mapping[str, dict[str, Any]]) -> Callable[[str], str | None]:
    """Return a function from a name to the entry that it finds."""
    exact: dict[str, str] = {}
    patterns: dict[str, list[tuple[int, Pattern, str]]] = {}  # by the first character
    for order, name in enumerate(filter(is_pattern, entries)):
        pattern = Pattern(name)
        patterns.setdefault(pattern.first[:1], []).append((order, pattern, name))
    for name, entry in entries.items():
        aliases = entry.get("aliases")
        own = [] if is_pattern(name) else [name]
        for each in (*own, *(aliases if isinstance(aliases, list) else ())):
            if isinstance(each, str):
                exact.setdefault(lookup_key(each), name)
    found: dict[str, str | None] = {}

    def matching(key: str) -> str | None:
        texts = spellings(key)
        first = {text[:1].lower() for text in texts} | {""}
        candidates = heapq.merge(*(patterns.get(start, ()) for start in first), key=itemgetter(0))
        return next((name for _, pattern, name in candidates if any(map(pattern.matches, texts))), None)

    def owner_of(text: str) -> str | None:
        if text not in found:
            key = lookup_key(text)
            found[text] = exact.get(key) or matching(key)
        return found[text]

    return owner_of


def _edges(name: str, entry: dict[str, Any], reason: str, owner_of: Callable[[str], str | None]) -> Iterator[Edge]:
    fallback = entry.get("fallback")
    path: Path = ("models", name, "fallback")
    if isinstance(fallback, dict):
        fallback, path = fallback.get(reason), (*path, reason)
    for index, text in enumerate(fallback) if isinstance(fallback, list) else ():
        owner = owner_of(_CAPTURE.sub("x", text)) if isinstance(text, str) else None
        if owner is not None and not (owner == name and is_pattern(name)):  # another name of the pattern
            yield owner, (*path, index)
