"""Finds conflicts between entries of a routing file.

Reads plain values and skips invalid ones, so that one problem does not hide another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from vllama_pool.config import names, urls
from vllama_pool.config.routing import schema
from vllama_pool.config.routing.fallback_loops import fallback_loops
from vllama_pool.config.routing.key_conflicts import find_key_conflicts
from vllama_pool.config.routing.yaml_document import Document, Path, Problem, dotted

_CAPTURE = re.compile(r"\{([1-9])\}")


def find_conflicts(document: Document) -> list[Problem]:
    """The document's top level must be a mapping."""
    return [
        *_unsupported(document),
        *_name_conflicts(document),
        *_serve_conflicts(document),
        *_worker_conflicts(document),
        *find_key_conflicts(document),
        *_capture_problems(document),
        *fallback_loops(document),
    ]


def _unsupported(document: Document) -> list[Problem]:
    """Find keys that have no effect yet."""
    problems: list[Problem] = []
    for path, position in document.keys.items():
        generic = ".".join("*" if i == 1 or isinstance(part, int) else part for i, part in enumerate(path))
        is_pattern = len(path) == 2 and path[0] == "models" and "*" in str(path[1])
        if generic in schema.NOT_YET or (is_pattern and "patterns" in schema.NOT_YET):
            problems.append(Problem(position.line, position.column, dotted(path), "not supported yet; remove it"))
    for name, entry in _entries(document):
        policy = entry.get("policy")
        kind = policy.get("type") if isinstance(policy, dict) else policy
        if f"policy {kind}" in schema.NOT_YET:
            position, path = document.value_position(("models", name, "policy")), ("models", name, "policy")
            problems.append(
                Problem(
                    position.line,
                    position.column,
                    dotted(path),
                    f"{kind} is not supported yet; write least-load or round-robin",
                )
            )
    return problems


def _entries(document: Document) -> Iterator[tuple[str, dict[str, Any]]]:
    models = document.value.get("models")
    for name, entry in models.items() if isinstance(models, dict) else ():
        yield name, entry if isinstance(entry, dict) else {}


def _indexed_texts(value: Any) -> list[tuple[int, str]]:
    return [(i, item) for i, item in enumerate(value) if isinstance(item, str)] if isinstance(value, list) else []


def _name_conflicts(document: Document) -> list[Problem]:
    problems: list[Problem] = []
    owners: dict[str, tuple[str, int, str]] = {}
    for name, _ in _entries(document):
        position = document.key_position(("models", name))
        key = names.lookup_key(name)
        if key in owners:
            first, line, _ = owners[key]
            message = f"the same model name as '{first}' in line {line}; keep one of them"
            problems.append(Problem(position.line, position.column, dotted(("models", name)), message))
        else:
            owners[key] = (name, position.line, name)
    for name, entry in _entries(document):
        for i, alias in _indexed_texts(entry.get("aliases")):
            path = ("models", name, "aliases", i)
            position, key = document.value_position(path), names.lookup_key(alias)
            if key not in owners:
                owners[key] = (alias, position.line, name)
                continue
            first, line, owner = owners[key]
            if owner != name:
                message = f"'{alias}' already stands for '{owner}' in line {line}; keep one of them"
            elif key == names.lookup_key(name):
                message = f"'{alias}' is the model's own name, in line {line}; remove it"
            else:
                message = f"the same alias as '{first}' in line {line}; remove it"
            problems.append(Problem(position.line, position.column, dotted(path), message))
    return problems


def _targets(name: str, entry: dict[str, Any]) -> list[tuple[Path, str]]:
    """Return the paths and names of the served models of an entry."""
    serve, path = entry.get("serve"), ("models", name, "serve")
    if serve is None:
        return [(("models", name), name)]
    if isinstance(serve, str):
        return [(path, serve)]
    targets: list[tuple[Path, str]] = []
    for i, item in enumerate(serve) if isinstance(serve, list) else ():
        if isinstance(item, str):
            targets.append(((*path, i), item))
        elif isinstance(item, dict) and isinstance(item.get("model"), str):
            targets.append(((*path, i, "model"), item["model"]))
    return targets


def _serve_conflicts(document: Document) -> list[Problem]:
    """Find `serve` values that name another entry: entries cannot be chained, so that they form no cycle."""
    problems: list[Problem] = []
    entries = list(_entries(document))
    entries_by_key = {names.lookup_key(name): (name, _targets(name, entry)) for name, entry in entries}
    for name, entry in entries:
        lines: dict[tuple[str, str], int] = {}
        for path, target in _targets(name, entry):
            position, key = document.value_position(path), names.lookup_key(target)
            same = key, _workers_of(entry, path)
            if same in lines:
                message = f"'{target}' is listed twice, first in line {lines[same]}; give it one weight"
                problems.append(Problem(position.line, position.column, dotted(path), message))
            lines.setdefault(same, position.line)
            other, other_targets = entries_by_key.get(key, (name, []))
            if other != name and all(names.lookup_key(text) != key for _, text in other_targets):
                line = document.key_position(("models", other)).line
                served = other_targets[0][1] if other_targets else "a served model"
                message = (
                    f"'{target}' is another entry, in line {line}; write what workers serve, such as "
                    f"'{served}', or make '{name}' an alias of it"
                )
                problems.append(Problem(position.line, position.column, dotted(path), message))
    return problems


def _workers_of(entry: dict[str, Any], path: Path) -> str:
    """Return the selector of a target in the file's words: one model may be served by several sorts of workers."""
    return str(entry["serve"][path[-2]].get("workers") or "") if len(path) == 5 else ""


def _capture_problems(document: Document) -> list[Problem]:
    """Find `{1}` and so on without a `*` that they stand for."""
    problems: list[Problem] = []
    for name, entry in _entries(document):
        stars = name.count("*")
        for path, text in (*_targets(name, entry), *_fallbacks(name, entry)):
            number = max((int(found) for found in _CAPTURE.findall(text)), default=0)
            if number > stars and text != name:
                position, few = document.value_position(path), f"has {stars} of them" if stars else "has none"
                message = f"{{{number}}} stands for a '*' of the entry's name, which {few}; correct it"
                problems.append(Problem(position.line, position.column, dotted(path), message))
    return problems


def _fallbacks(name: str, entry: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    fallback, path = entry.get("fallback"), ("models", name, "fallback")
    lists = fallback.items() if isinstance(fallback, dict) else [(None, fallback)]
    for reason, texts in lists:
        for i, text in _indexed_texts(texts):
            yield (*path, i) if reason is None else (*path, reason, i), text


def _worker_conflicts(document: Document) -> list[Problem]:
    problems: list[Problem] = []
    workers = document.value.get("workers")
    for key, normal in (("url", _normal_url), ("name", str)):
        lines: dict[str, int] = {}
        for i, worker in enumerate(workers) if isinstance(workers, list) else ():
            if not isinstance(worker, dict) or not isinstance(worker.get(key), str):
                continue
            path = ("workers", i, key)
            position, value = document.value_position(path), normal(worker[key])
            if value in lines:
                message = f"the same {key} as in line {lines[value]}; keep one of them"
                problems.append(Problem(position.line, position.column, dotted(path), message))
            lines.setdefault(value, position.line)
    return problems


def _normal_url(value: str) -> str:
    try:
        return urls.worker_url(value)
    except urls.InvalidUrl:
        return value
