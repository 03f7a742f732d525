"""Reads the entries of a document that may have wrong types. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vllama_pool.config import names
from vllama_pool.config.patterns import is_pattern
from vllama_pool.config.routing.places import Path
from vllama_pool.config.routing.yaml_document import Document


def entries(document: Document) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield names and entries of models."""
    for name, entry in mapping_of(document.value.get("models")).items():
        yield name, mapping_of(entry)


def entry_key(name: str) -> str:
    """Return what two entries of the same name have in common."""
    return name.strip().lower() if is_pattern(name) else names.lookup_key(name)


def targets(name: str, entry: dict[str, Any]) -> list[tuple[Path, str]]:
    """Return the paths and names of an entry's served models."""
    serve, path = entry.get("serve"), ("models", name, "serve")
    if serve is None:
        return [(("models", name), name)]
    if isinstance(serve, str):
        return [(path, serve)]
    found: list[tuple[Path, str]] = []
    for i, item in enumerate(serve) if isinstance(serve, list) else ():
        if isinstance(item, str):
            found.append(((*path, i), item))
        elif isinstance(item, dict) and isinstance(item.get("model"), str):
            found.append(((*path, i, "model"), item["model"]))
    return found


def fallbacks(name: str, entry: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """Yield the paths and names of an entry's fallbacks."""
    fallback, path = entry.get("fallback"), ("models", name, "fallback")
    for i, text in texts_of(fallback):
        yield (*path, i), text
    for reason, listed in mapping_of(fallback).items():
        for i, text in texts_of(listed):
            yield (*path, reason, i), text


def mapping_of(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def texts_of(value: Any) -> list[tuple[int, str]]:
    """Return the texts of a list with their indices."""
    return [(i, item) for i, item in enumerate(value) if isinstance(item, str)] if isinstance(value, list) else []


def texts_under(document: Document, section: str, key: str) -> Iterator[tuple[Path, str]]:
    """Yield the path and the text of a key in each item of a section."""
    value = document.value.get(section)
    items = enumerate(value) if isinstance(value, list) else mapping_of(value).items()
    for name, item in items:
        if isinstance(text := mapping_of(item).get(key), str):
            yield (section, name, key), text
