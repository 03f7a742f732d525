"""Finds models that cannot be without a worker although their `scale` says so. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from vllama_pool.config.patterns import is_pattern
from vllama_pool.config.routing.entries import entries, mapping_of
from vllama_pool.config.routing.places import Path, Problem, dotted
from vllama_pool.config.routing.yaml_document import Document


def scale_problems(document: Document) -> Iterator[Problem]:
    for name, entry in entries(document):
        if mapping_of(entry.get("scale")).get("from_zero") is not True:
            continue
        if is_pattern(name):
            path: Path = ("models", name, "scale", "from_zero")
            message = "a pattern has no name to list without a worker; give the model an entry of its own"
            yield Problem(document.value_place(path), dotted(path), message)
        limits = mapping_of(entry.get("limits"))
        queue = limits.get("queue")
        if queue == 0 and not isinstance(queue, bool) and limits.get("concurrency") is None:
            path = ("models", name, "limits", "queue")
            message = "no request may wait, but scale.from_zero lets them wait for a worker; raise it or remove scale"
            yield Problem(document.value_place(path), dotted(path), message)
