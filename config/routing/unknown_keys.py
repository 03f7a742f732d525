"""Messages about unknown keys of a routing file: the nearest key, or the place where the key belongs."""

from __future__ import annotations

import difflib

from vllama_pool.config.routing.model_options import REMOVED_OPTIONS, ModelOptions
from vllama_pool.config.routing.places import Path
from vllama_pool.config.routing.schema import RoutingFile
from vllama_pool.config.routing.schema_paths import Model, fields_below, models_at


def is_section(key: str | int) -> bool:
    return key in RoutingFile.model_fields


def unknown_key(key: str, parent: Path, kind: object = None) -> str:
    """Describe a key that the mapping at `parent` may not have. `kind` is the mapping's `type`, if it has one."""
    models = models_at(parent, kind) or (RoutingFile,)
    if ModelOptions in models and key in REMOVED_OPTIONS:
        return "no longer an option of Ollama; remove it"
    known = list(dict.fromkeys(name for model in models for name in model.model_fields))
    noun = "option" if ModelOptions in models else "key"
    return f"unknown {noun}; {_advice(key, parent, models, known)}"


def _advice(key: str, parent: Path, models: tuple[Model, ...], known: list[str]) -> str:
    below = [name for model in models for name in fields_below(model).get(key, ())]
    if below and len(set(below)) == 1:
        return f"write it under '{below[0]}'"
    outside = _outside(key, parent)
    if outside:
        return outside
    near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    if ModelOptions in models:
        return "write one of Ollama's option names"
    return f"write one of {', '.join(known)}"


def _outside(key: str, parent: Path) -> str:
    """Return the advice for a key of a mapping around this one, such as a wrong indentation moves it."""
    for end in range(len(parent) - 1, -1, -1):
        if any(key in model.model_fields for model in models_at(parent[:end])):
            return f"write it beside '{parent[end]}'" if end else "begin it at the left margin"
    return ""
