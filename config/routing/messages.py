"""Turns pydantic's errors about a routing file into problems with a position."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel

from vllama_pool.config.routing import schema
from vllama_pool.config.routing.model_entry import ModelEntry, Target
from vllama_pool.config.routing.model_options import REMOVED_OPTIONS, ModelOptions
from vllama_pool.config.routing.yaml_document import Document, Path, Problem, dotted, kind
from vllama_pool.config.routing.yaml_scalars import is_number


def problem_for(error: Any, document: Document) -> Problem:
    path = tuple(part for part in error["loc"] if not str(part).startswith("<"))
    is_key = path[-1:] == ("[key]",)
    if is_key:
        path = path[:-1]
    message = _describe(error, path)
    at_key = is_key or error["type"] in ("extra_forbidden", "missing")
    position = document.key_position(path) if at_key else document.value_position(path)
    return Problem(position.line, position.column, dotted(path), message)


def _describe(error: Any, path: Path) -> str:
    value, context = error["input"], error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            return _unknown_key(str(path[-1]), path[:-1])
        case "missing":
            return "is missing; add it"
        case "value_error":
            return str(context["error"])
        case "form":
            return f"expected {error['msg']}, got {kind(value)}; {_advice(value)}"
        case "literal_error":
            return f"expected {context['expected']}, got {kind(value)}; write one of them"
        case "string_pattern_mismatch":
            return f"{kind(value)} may only have A-Z a-z 0-9 _ . -; rename it"
        case "string_too_short" | "too_short":
            return "is empty; write something or leave the key out"
        case "string_too_long" | "too_long":
            return f"is longer than {context['max_length']}; shorten it"
        case "string_type":
            return f"expected text, got {kind(value)}; {_advice(value)}"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal" | "finite_number":
            return f"{error['msg'].removeprefix('Input ').lower()}, got {kind(value)}; correct it"
        case "list_type" | "tuple_type" if isinstance(value, str):
            return f"expected a list, got {kind(value)}; write it in brackets: [{value[:40]}]"
        case "model_type" if value is None and path:
            return "is empty; write something under it or remove it"
    expected = _EXPECTED.get(error["type"], "another value")
    return f"expected {expected}, got {kind(value)}; {_correction(error['type'], value)}"


def _correction(wanted: str, value: object) -> str:
    """Return the advice for a text where a number or a truth value belongs."""
    if not isinstance(value, str):
        return "correct it"
    if wanted == "bool_type":
        if value in ("true", "false"):
            return "write it without quotes"
        return f"write {_TRUTH[value.lower()]}" if value.lower() in _TRUTH else "correct it"
    if wanted in ("int_type", "float_type"):
        if is_number(value):
            return "write it without quotes"
        if is_number(plain := value.replace("_", "")):
            return f"write {plain[:40]}"
    return "correct it"


_TRUTH = {
    **dict.fromkeys(("true", "yes", "on", "y"), "true"),
    **dict.fromkeys(("false", "no", "off", "n"), "false"),
}


_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}


def _advice(value: object) -> str:
    scalar = value is not None and not isinstance(value, str | list | dict)
    return "put it in quotes" if scalar else "correct it"


def _unknown_key(key: str, parent: Path) -> str:
    model = _model_at(parent)
    if model is ModelOptions and key in REMOVED_OPTIONS:
        return "no longer an option of Ollama; remove it"
    known = list(model.model_fields)
    near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.6)
    noun = "option" if model is ModelOptions else "key"
    if near:
        return f"unknown {noun}; did you mean '{near[0]}'?"
    choices = "Ollama's option names" if model is ModelOptions else f"of {', '.join(known)}"
    return f"unknown {noun}; write one {'of ' if model is ModelOptions else ''}{choices}"


def _model_at(path: Path) -> type[BaseModel]:
    match path:
        case ("models", _):
            return ModelEntry
        case ("models", _, "options"):
            return ModelOptions
        case ("models", _, "serve", _):
            return Target
        case ("workers", _):
            return schema.WorkerEntry
    return schema.RoutingFile
