"""Finds conflicts in the served models of a routing file's entries. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from vllama_pool.config.routing.entries import entries, fallbacks, mapping_of, targets, texts_of
from vllama_pool.config.routing.places import Path, Problem, dotted
from vllama_pool.config.routing.yaml_document import Document

_CAPTURE = re.compile(r"\{([1-9])\}")

KeyOf = Callable[[str], str]
_Targets = list[tuple[Path, str]]


def target_problems(document: Document, key_of: KeyOf) -> Iterator[Problem]:
    targets_of = {name: targets(name, entry) for name, entry in entries(document)}
    known = {key_of(name): (name, own) for name, own in targets_of.items()}
    for name, entry in entries(document):
        own = targets_of[name]
        yield from _twice(document, own, key_of)
        yield from _chained(document, name, own, known, key_of)
        yield from _captures(document, name, [*own, *fallbacks(name, entry)])
        yield from _weights(document, name, entry.get("serve"))
        yield from _selector(document, ("models", name, "workers"), entry.get("workers"))


def _twice(document: Document, own: _Targets, key_of: KeyOf) -> Iterator[Problem]:
    """Find models that are listed twice with the same workers."""
    if len(own) == 1:
        return
    paths: dict[tuple[str, str], Path] = {}
    for path, target in own:
        first = paths.setdefault((key_of(target), _workers_at(document, path)), path)
        if first is not path:
            place = document.value_place(path)
            where = document.value_place(first).beside(place)
            yield Problem(place, dotted(path), f"'{target}' is listed twice, first in {where}; give it one weight")


def _workers_at(document: Document, path: Path) -> str:
    """The same model may be listed for different workers."""
    item = document.value
    for part in path[:-1]:
        item = item[part]
    return repr(mapping_of(item).get("workers")) if path[-1] == "model" else "None"


def _chained(
    document: Document, name: str, own: _Targets, known: dict[str, tuple[str, _Targets]], key_of: KeyOf
) -> Iterator[Problem]:
    """Find served models that are other entries: entries cannot be chained, so that they form no cycle."""
    for path, target in own:
        key = key_of(target)
        other, others = known.get(key, (name, []))
        if other == name or any(key_of(text) == key for _, text in others):
            continue
        place = document.value_place(path)
        served = others[0][1] if others else "a served model"
        where = document.key_place(("models", other)).beside(place)
        message = (
            f"'{target}' is another entry, in {where}; write what workers serve, such as '{served}', "
            f"or make '{name}' an alias of it"
        )
        yield Problem(place, dotted(path), message)


def _captures(document: Document, name: str, texts: _Targets) -> Iterator[Problem]:
    """Find `{1}` and so on without a `*` that they stand for."""
    stars = name.count("*")
    for path, text in texts:
        number = max(map(int, _CAPTURE.findall(text)), default=0) if "{" in text else 0
        if number > stars and text != name:
            few = f"has {stars} of them" if stars else "has none"
            message = f"{{{number}}} stands for a '*' of the entry's name, which {few}; correct it"
            yield Problem(document.value_place(path), dotted(path), message)


def _weights(document: Document, name: str, serve: Any) -> Iterator[Problem]:
    items = serve if isinstance(serve, list) else []
    for i, item in enumerate(items):
        yield from _selector(document, ("models", name, "serve", i, "workers"), mapping_of(item).get("workers"))
    if items and all(isinstance(item, dict) and item.get("weight") == 0 for item in items):
        path = ("models", name, "serve")
        yield Problem(document.value_place(path), dotted(path), "all weights are 0; give one a weight of 1 or more")


def _selector(document: Document, path: Path, selector: Any) -> Iterator[Problem]:
    if selector is None:
        return
    excluded = {tag for _, tag in texts_of(mapping_of(selector).get("exclude"))}
    for i, tag in texts_of(mapping_of(selector).get("require")):
        if tag in excluded:
            at = (*path, "require", i)
            yield Problem(document.value_place(at), dotted(at), f"'{tag}' is also excluded; remove one of them")
