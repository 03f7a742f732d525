"""Turns pydantic's errors about a routing file into problems with a place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllama_pool.config.routing.kinds import kind
from vllama_pool.config.routing.places import Path, Problem, dotted, shortened
from vllama_pool.config.routing.unknown_keys import is_section, unknown_key
from vllama_pool.config.routing.variables import is_variable
from vllama_pool.config.routing.yaml_document import Document
from vllama_pool.config.routing.yaml_scalars import is_number


def problem_for(error: Any, document: Document) -> Problem:
    path = tuple(part for part in error["loc"] if not str(part).startswith("<"))
    is_key = path[-1:] == ("[key]",)
    if is_key:
        path = path[:-1]
    given = _Given(error["input"], "" if is_key else document.source(path))
    message = _unknown(path, document) if error["type"] == "extra_forbidden" else _describe(error, path, given)
    at_key = is_key or error["type"] in ("extra_forbidden", "missing")
    return Problem(document.key_place(path) if at_key else document.value_place(path), dotted(path), message)


def without_values(problem: Problem, variables: Mapping[str, str]) -> Problem:
    """Replace values that came from the environment, which may be secrets, by their sources, and shorten the rest."""
    message = problem.message
    for value, source in variables.items():
        if value and value in message:
            pattern = rf"(?<!\w){re.escape(value)}(?!\w)" if len(value) >= _LONG else f"(?<='){re.escape(value)}(?=')"
            message = re.sub(pattern, source.replace("\\", r"\\"), message)
    return Problem(problem.place, shortened(problem.key), shortened(message))


def _without_parts(message: str, given: _Given) -> str:
    """Replace long parts of a value from the environment, which a message may have shortened."""
    if not given.source or not isinstance(given.value, str):
        return message
    kept, start = "", 0
    while start < len(message):
        end = start
        while end < len(message) and message[start : end + 1] in given.value:
            end += 1
        is_part = end - start >= _PART
        kept += given.source if is_part else message[start]
        start = end if is_part else start + 1
    return kept


_PART = 6
"""Characters that a message and a value hardly have in common by chance."""
_LONG = 4
"""Characters of a value that is replaced anywhere; a shorter one only between quotes."""


@dataclass(frozen=True, slots=True)
class _Given:
    value: Any
    source: str
    """The text as written, for a value from the environment."""

    def __str__(self) -> str:
        return kind(self.value, self.source)


def _unknown(path: Path, document: Document) -> str:
    parent = document.node(path[:-1])
    values = parent.value if parent is not None and isinstance(parent.value, dict) else {}
    return unknown_key(str(path[-1]), path[:-1], values.get("type"))


def _describe(error: Any, path: Path, given: _Given) -> str:
    value, context = given.value, error.get("ctx", {})
    match error["type"]:
        case "missing":
            return "is missing; add it"
        case "model_type" | "dict_type" if value is None and path:
            return "is empty; write something under it or remove it"
        case _ if value is None and path and not given.source:
            return "is empty; write something or leave the key out"
        case "value_error":
            return _without_parts(str(context["error"]), given)
        case "form":
            return f"expected {error['msg']}, got {given}; {_advice(given)}"
        case "literal_error":
            return f"expected {context['expected']}, got {given}; write one of them"
        case "string_pattern_mismatch" if isinstance(value, str) and len(value) > 80:
            return "is longer than 80 characters; shorten it"
        case "string_pattern_mismatch":
            return f"{given} may only have A-Z a-z 0-9 _ . -, and begins with a letter, digit or _; rename it"
        case "string_too_short" | "too_short":
            return "is empty; write something or leave the key out"
        case "string_too_long":
            return f"is longer than {context['max_length']} characters; shorten it"
        case "too_long":
            return f"has more than {context['max_length']} items; shorten it"
        case "string_type":
            return f"expected text, got {given}; {_advice(given)}"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal" | "finite_number":
            return f"{error['msg'].removeprefix('Input ').lower()}, got {given}; {_range(context)}"
        case "list_type" | "tuple_type" if isinstance(value, str) and not given.source:
            return f"expected a list, got {given}; write it in brackets: [{value[:40]}]"
        case "model_type" | "dict_type" if len(path) == 2 and is_section(path[1]):
            return f"expected a mapping, got {given}; '{path[1]}' is a section: begin it at the left margin"
    expected = _EXPECTED.get(error["type"], "another value")
    return f"expected {expected}, got {given}; {_correction(error['type'], given)}"


def _range(context: Mapping[str, Any]) -> str:
    for bound, advice in (("ge", "{} or more"), ("gt", "more than {}"), ("le", "{} or less"), ("lt", "less than {}")):
        if bound in context:
            number = context[bound]
            return "write " + advice.format(f"{number:g}" if number < _EXACT else f"{number:.0f}")
    return "write another number"


_EXACT = 10**6
"""From here on, `:g` would round."""


def _correction(wanted: str, given: _Given) -> str:
    """Return the advice for a text where a number or a truth value belongs."""
    value = given.value
    if given.source:
        if not is_number(str(value)):
            return "correct the variable"
        alone = is_variable(given.source)
        return "write it without quotes, outside of [ ] and { }" if alone else "write one variable and nothing else"
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


def _advice(given: _Given) -> str:
    scalar = not isinstance(given.value, str | list | dict)
    return "put it in quotes" if scalar else "correct the variable" if given.source else "correct it"
