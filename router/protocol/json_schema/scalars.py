"""Strings, numbers and listed values of a JSON schema for a grammar."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from vllama_pool.router.protocol.json_schema.errors import unrecognized
from vllama_pool.router.protocol.json_schema.merge import Flat, canonical, is_number, types
from vllama_pool.router.protocol.json_schema.pattern import usable

OLLAMA_FORMATS = frozenset({"date", "time", "date-time", "uuid"})
FORMATS = OLLAMA_FORMATS | {"duration", "email", "hostname", "ipv4", "ipv6", "uri"}
"""Known to guidance and to xgrammar."""
MAX_INTEGER = 10**16 - 1
"""Ollama's grammar writes at most 16 digits."""
_LARGEST = 2**63 - 1
_SMALLEST = -(2**63) + 1024
"""guidance reads bounds as floats, and refuses an integer bound that becomes -2^63."""
_FAR = 2**64
_LARGEST_NUMBER = 1e17
_FINEST_NUMBER = 1e-30
"""guidance refuses bounds of numbers far beyond these."""
_NARROWEST = 1e-5
"""xgrammar writes at most six decimals between two bounds, and nothing at all where none of them fits."""
MAX_LENGTH = 100_000
"""Longest string bound that is worth a grammar's time."""

Scalar = Flat | None
"""None if no value satisfies the schema."""


def listed(flat: Flat) -> Scalar:
    """Keep the values of the given type; all if none has it, because Ollama ignores the type."""
    values = flat["enum"]
    if not isinstance(values, list):
        raise unrecognized(flat)
    unique = list({canonical(value): value for value in values}.values())
    if not unique:
        return None
    allowed = flat.get("type")
    typed = [value for value in unique if allowed is None or any(_has_type(value, each) for each in types(allowed))]
    kept = typed or unique
    return {"const": kept[0]} if len(kept) == 1 else {"enum": kept}


def string(flat: Flat) -> Scalar:
    """Apply the first of pattern, format and length that is given, as Ollama does."""
    result: Flat = {"type": "string"}
    pattern = flat.get("pattern")
    if isinstance(pattern, str) and (regex := usable(pattern)) is not None:
        return result | {"pattern": regex}
    if (known := format_of(flat)) in FORMATS:
        return result | {"format": known}
    shortest, longest = count(flat, "minLength", MAX_LENGTH) or 0, count(flat, "maxLength", MAX_LENGTH)
    if longest is not None and longest < shortest:
        return None
    return result | bounds("minLength", shortest, "maxLength", longest)


def format_of(flat: Flat) -> str:
    found = flat.get("format")
    if not isinstance(found, str):
        return ""
    return "uuid" if found in ("uuid1", "uuid2", "uuid3", "uuid4", "uuid5") else found


def count(flat: Flat, key: str, limit: int) -> int | None:
    """Return a length or number of items; None if it is missing, no count or beyond `limit`."""
    value = flat.get(key)
    if not is_number(value) or value != value or not 0 <= value <= limit:
        return None
    return math.ceil(value) if key.startswith("min") else math.floor(value)


def bounds(lower: str, least: int, upper: str, most: int | None) -> Flat:
    return ({lower: least} if least else {}) | ({upper: most} if most is not None else {})


def integer(flat: Flat) -> Scalar:
    low, high = _integer_bound(flat, "minimum"), _integer_bound(flat, "maximum")
    if low is None:
        low = -MAX_INTEGER if high is None or high >= -MAX_INTEGER else _SMALLEST
    if high is None:
        high = MAX_INTEGER if low <= MAX_INTEGER else _LARGEST
    return {"type": "integer", "minimum": low, "maximum": high} if low <= high else None


def number(flat: Flat) -> Scalar:
    result: Flat = {"type": "number"}
    for key in ("minimum", "maximum"):
        inclusive, exclusive = map(_expressible, _number_bounds(flat, key))
        if exclusive is not None and (inclusive is None or (exclusive >= inclusive) == (key == "minimum")):
            result[_exclusive(key)] = exclusive
        elif inclusive is not None:
            result[key] = inclusive
    low = next((result[key] for key in ("minimum", "exclusiveMinimum") if key in result), -math.inf)
    high = next((result[key] for key in ("maximum", "exclusiveMaximum") if key in result), math.inf)
    is_open = "exclusiveMinimum" in result or "exclusiveMaximum" in result
    if low > high or (low == high and is_open):
        return None
    if low == high:
        return {"const": low}
    return result if high - low >= _NARROWEST else {"type": "number"}


def _exclusive(key: str) -> str:
    return "exclusive" + key.capitalize()


def _number_bounds(flat: Flat, key: str) -> tuple[Any, Any]:
    """Return the inclusive and the exclusive bound. Draft 4 marks a bound as exclusive by `true`."""
    bound, exclusive = flat.get(key), flat.get(_exclusive(key))
    inclusive = bound if is_number(bound) else None
    if exclusive is True:
        return None, inclusive
    return inclusive, exclusive if is_number(exclusive) else None


def _expressible(bound: Any) -> Any:
    """Return a number's bound, or None if grammars refuse it."""
    return bound if bound is not None and (bound == 0 or _FINEST_NUMBER <= abs(bound) <= _LARGEST_NUMBER) else None


def _integer_bound(flat: Flat, key: str) -> int | None:
    """Return the bound as an inclusive integer of 64 bits; None if none of them is within it."""
    inclusive, exclusive = _number_bounds(flat, key)
    is_minimum = key == "minimum"
    found = [] if inclusive is None else [_rounded_in(inclusive, is_minimum)]
    if exclusive is not None:
        rounded = _rounded_in(exclusive, is_minimum)
        found.append(rounded + (1 if is_minimum else -1) if rounded == exclusive else rounded)
    if not found:
        return None
    bound = max(found) if is_minimum else min(found)
    is_reachable = bound <= _LARGEST if is_minimum else bound >= _SMALLEST
    return min(max(bound, _SMALLEST), _LARGEST) if is_reachable else None


def _rounded_in(bound: float, is_minimum: bool) -> int:
    near = min(max(bound, -_FAR), _FAR)
    return math.ceil(near) if is_minimum else math.floor(near)


def _has_type(value: Any, kind: Any) -> bool:
    return isinstance(kind, str) and kind in _KINDS and _KINDS[kind](value)


_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "number": is_number,
    "integer": lambda value: is_number(value) and value == value // 1,
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
