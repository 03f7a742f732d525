"""Finds the pydantic models at a path of a routing file, from their types."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from vllama_pool.config.routing.places import Path
from vllama_pool.config.routing.schema import RoutingFile

Model = type[BaseModel]


def models_at(path: Path, kind: object = None) -> tuple[Model, ...]:
    """Return the models that a mapping at a path may have: of several, those whose `type` is `kind`, if any are."""
    types: tuple[Any, ...] = (RoutingFile,)
    for part in path:
        types = tuple(inner for each in types for inner in _inside(each, part))
    models = tuple(each for each in types if _is_model(each))
    return tuple(model for model in models if kind in _kinds(model)) or models


@cache
def fields_below(model: Model) -> dict[str, tuple[str, ...]]:
    """Return the keys that are not a model's own but those of a mapping in it -> the keys of such mappings."""
    found: dict[str, tuple[str, ...]] = {}
    for name, field in model.model_fields.items():
        for below in _models_in(field.annotation):
            for key in below.model_fields:
                found[key] = (*found.get(key, ()), name)
    return found


def _inside(kind: Any, part: str | int) -> Iterator[Any]:
    """Yield the types of a value's item or field."""
    if _is_model(kind):
        field = kind.model_fields.get(part)
        yield from _alternatives(field.annotation) if field else ()
    elif get_origin(kind) is dict and isinstance(part, str):
        yield from _alternatives(get_args(kind)[1])
    elif get_origin(kind) in (tuple, list) and isinstance(part, int):
        yield from _alternatives(get_args(kind)[0])


def _alternatives(kind: Any) -> Iterator[Any]:
    if get_origin(kind) is Annotated:
        yield from _alternatives(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for each in get_args(kind):
            yield from _alternatives(each)
    else:
        yield kind


def _models_in(kind: Any) -> Iterator[Model]:
    """Yield the models of a field: its own, or those of its list's items."""
    for each in _alternatives(kind):
        if _is_model(each):
            yield each
        elif get_origin(each) in (tuple, list):
            yield from _models_in(get_args(each)[0])


def _kinds(model: Model) -> tuple[Any, ...]:
    field = model.model_fields.get("type")
    return get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
