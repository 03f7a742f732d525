"""The JSON Schema of the routing file for editors, which do not replace variables."""

from __future__ import annotations

from typing import Any

VARIABLE = {"type": "string", "pattern": r"^\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}$", "description": "A variable."}
_ABOUT = ("title", "description", "default")


def with_variables(schema: Any) -> Any:
    """Allow `${NAME}` for every scalar that is more than any text."""
    if isinstance(schema, list):
        return [with_variables(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: value if key in ("enum", "default") else with_variables(value) for key, value in schema.items()}
    return _allowing(inner) if _is_strict_scalar(schema) else inner


def _is_strict_scalar(schema: dict[str, Any]) -> bool:
    kind = schema.get("type")
    return kind in ("integer", "number", "boolean") or (kind == "string" and ("enum" in schema or "pattern" in schema))


def _allowing(schema: dict[str, Any]) -> dict[str, Any]:
    about = {key: schema.pop(key) for key in _ABOUT if key in schema}
    return {**about, "anyOf": [schema, VARIABLE]}
