"""Conjunction of two JSON schemas that have no `$ref`, `allOf`, `anyOf` or `oneOf` of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

Flat = dict[str, Any]

LOWER_BOUNDS = ("minimum", "exclusiveMinimum", "minLength", "minItems")
UPPER_BOUNDS = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")


def merged(first: Flat, second: Flat) -> Flat | None:
    """Return None if no value satisfies both."""
    result = dict(first)
    for key, value in second.items():
        if key in result:
            value = _MERGERS.get(key, _first)(result[key], value)
            if value is None:
                return None
        result[key] = value
    return result


def types(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def canonical(value: Any) -> str:
    """Return equal texts for equal JSON values."""
    return json.dumps(value, sort_keys=True)


def _first(first: Any, _: Any) -> Any:
    return first


def _common_types(first: Any, second: Any) -> Any:
    if first is None or second is None:
        return second if first is None else first
    ours, theirs = types(first), types(second)
    common = [each for each in ours if each in theirs or (each == "integer" and "number" in theirs)]
    if "number" in ours and "integer" in theirs and "integer" not in common:
        common.append("integer")
    return common[0] if len(common) == 1 else common or None


def _common_values(first: Any, second: Any) -> Any:
    if not isinstance(first, list) or not isinstance(second, list):
        return first
    allowed = {canonical(each) for each in second}
    return [each for each in first if canonical(each) in allowed] or None


def _all_properties(first: Any, second: Any) -> Any:
    if not isinstance(first, dict) or not isinstance(second, dict):
        return first
    result = dict(first)
    for name, schema in second.items():
        result[name] = _both(result[name], schema) if name in result else schema
    return result


def _both(first: Any, second: Any) -> Any:
    return first if canonical(first) == canonical(second) else {"allOf": [first, second]}


def _both_prefixes(first: Any, second: Any) -> Any:
    if not isinstance(first, list) or not isinstance(second, list):
        return first
    common = [_both(ours, theirs) for ours, theirs in zip(first, second, strict=False)]
    return common + (first if len(first) > len(second) else second)[len(common) :]


def _all_names(first: Any, second: Any) -> Any:
    if not isinstance(first, list) or not isinstance(second, list):
        return first
    return first + [name for name in second if name not in first]


def _rest(first: Any, second: Any) -> Any:
    """Closed if either is, as Ollama closes the merged object; open only where nothing stricter is said."""
    if first is False or second is False:
        return False
    if first is True or second is True:
        return second if first is True else first
    return _both(first, second)


def _bound(choose: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def bound(first: Any, second: Any) -> Any:
        return choose(first, second) if is_number(first) and is_number(second) else first

    return bound


_MERGERS: Mapping[str, Callable[[Any, Any], Any]] = {
    "type": _common_types,
    "enum": _common_values,
    "properties": _all_properties,
    "required": _all_names,
    "additionalProperties": _rest,
    "items": _rest,
    "prefixItems": _both_prefixes,
    **dict.fromkeys(LOWER_BOUNDS, _bound(max)),
    **dict.fromkeys(UPPER_BOUNDS, _bound(min)),
}
