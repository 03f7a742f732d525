"""Finds conflicts between entries of a routing file.

Reads plain values and skips invalid ones, so that one problem does not hide another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from vllama_pool.config import urls
from vllama_pool.config.routing.entries import entries, entry_key, texts_of, texts_under
from vllama_pool.config.routing.fallback_loops import fallback_loops
from vllama_pool.config.routing.key_conflicts import find_key_conflicts
from vllama_pool.config.routing.places import Path, Place, Problem, dotted
from vllama_pool.config.routing.scale_checks import scale_problems
from vllama_pool.config.routing.target_checks import target_problems
from vllama_pool.config.routing.yaml_document import Document


def find_conflicts(document: Document) -> Iterator[Problem]:
    """The document's top level must be a mapping."""
    key_of = cache(entry_key)  # of many names, each of which is asked for several times
    yield from _name_conflicts(document, key_of)
    yield from target_problems(document, key_of)
    yield from fallback_loops(document)
    yield from scale_problems(document)
    yield from _worker_conflicts(document)
    yield from find_key_conflicts(document)
    yield from _empty_maintenance(document)


@dataclass(frozen=True, slots=True)
class _Owned:
    """A name, the entry that has it, and where."""

    name: str
    owner: str
    path: Path


def _name_conflicts(document: Document, key_of: Callable[[str], str]) -> Iterator[Problem]:
    owned: dict[str, _Owned] = {}
    for name, _ in entries(document):
        path: Path = ("models", name)
        first = owned.setdefault(key_of(name), _Owned(name, name, path))
        if first.name != name:
            place = document.key_place(path)
            where = document.key_place(first.path).beside(place)
            yield Problem(place, dotted(path), f"the same model name as '{first.name}' in {where}; keep one of them")
    for name, entry in entries(document):
        for i, alias in texts_of(entry.get("aliases")):
            path = ("models", name, "aliases", i)
            first = owned.setdefault(key_of(alias), _Owned(alias, name, path))
            if first.path is not path:
                yield Problem(document.value_place(path), dotted(path), _taken(document, alias, name, path, first))


def _taken(document: Document, alias: str, name: str, path: Path, first: _Owned) -> str:
    place = document.value_place(path)
    where = document.key_place(first.path).beside(place)
    if first.owner != name:
        return f"'{alias}' already stands for '{first.owner}' in {where}; keep one of them"
    if len(first.path) == len(("models", name)):
        return f"'{alias}' is the model's own name, in {where}; remove it"
    return f"the same alias as '{first.name}' in {where}; remove it"


def _worker_conflicts(document: Document) -> Iterator[Problem]:
    yield from _twice(document, texts_under(document, "workers", "url"), "url", _normal_url)
    yield from _twice(document, texts_under(document, "workers", "name"), "name", str)


def _twice(
    document: Document, texts: Iterator[tuple[Path, str]], noun: str, normal: Callable[[str], str]
) -> Iterator[Problem]:
    places: dict[str, Place] = {}
    for path, text in texts:
        place = document.value_place(path)
        first = places.setdefault(normal(text), place)
        if first is not place:
            yield Problem(place, dotted(path), f"the same {noun} as in {first.beside(place)}; keep one of them")


def _normal_url(value: str) -> str:
    try:
        return urls.worker_url(value)
    except urls.InvalidUrl:
        return value


def _empty_maintenance(document: Document) -> Iterator[Problem]:
    items = document.value.get("maintenance")
    for i, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict) and not item.get("workers") and not item.get("tags"):
            path = ("maintenance", i)
            yield Problem(document.value_place(path), dotted(path), "names no workers and no tags; add one of them")
