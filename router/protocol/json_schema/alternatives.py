"""Alternatives of a JSON schema: `allOf`, `anyOf`, `oneOf` and `$ref` next to other keywords, as a list of schemas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllama_pool.router.protocol.json_schema.errors import too_large, unrecognized
from vllama_pool.router.protocol.json_schema.merge import LOWER_BOUNDS, UPPER_BOUNDS, Flat, merged

MAX_ALTERNATIVES = 200
MAX_STEPS = 5000

KEYWORDS = frozenset(
    {
        *("type", "enum", "properties", "required", "additionalProperties"),
        *("items", "prefixItems", "additionalItems", "pattern", "format"),
        *LOWER_BOUNDS,
        *UPPER_BOUNDS,
    }
)
"""Keywords of a value itself; all others but the combining ones are ignored."""
_COMBINING = ("$ref", "oneOf", "anyOf", "allOf")
_ANNOTATIONS = frozenset(
    {
        *("$anchor", "$comment", "$defs", "$id", "$schema", "default", "definitions", "deprecated", "description"),
        *("example", "examples", "id", "readOnly", "title", "writeOnly"),
    }
)
"""Keywords that limit no value."""


class Alternatives:
    def __init__(self, resolve: Callable[[Any], Any]) -> None:
        """`resolve` returns the schema that a `$ref` names."""
        self._resolve = resolve
        self._steps = 0

    def plain_ref(self, schema: Flat) -> str | None:
        """Return the `$ref` of a schema that says nothing else."""
        if "$ref" not in schema or _own(schema) or _is_never(schema) or any(key in schema for key in _COMBINING[1:]):
            return None
        self._resolve(schema["$ref"])
        ref: str = schema["$ref"]
        return ref

    def target(self, ref: str) -> str:
        """Follow references to references. Raises BadRequest for a circle."""
        seen = {ref}
        while isinstance(schema := self._resolve(ref), dict) and (further := self.plain_ref(schema)) is not None:
            if further in seen:
                raise unrecognized(schema)
            seen.add(further)
            ref = further
        return ref

    def is_flat(self, schema: Any) -> bool:
        if not isinstance(schema, dict) or "const" in schema or _is_never(schema):
            return False
        return not any(key in schema for key in _COMBINING)

    def of(self, schema: Flat) -> list[Any]:
        """Return schemas of which a value satisfies one. They are flat unless they stand alone."""
        if _is_never(schema):
            return []
        groups = self._groups(schema)
        if not groups:
            return [{}]
        if len(groups) == 1:
            return groups[0]
        return self._product(groups, frozenset())

    def _groups(self, schema: Flat) -> list[list[Any]]:
        """Return the groups of alternatives that a value must all satisfy."""
        groups: list[list[Any]] = []
        if own := _own(schema):
            groups.append([own])
        if "$ref" in schema:
            groups.append([{"$ref": schema["$ref"]}])
        for key in ("allOf", "oneOf", "anyOf"):
            members = schema.get(key)
            if members is None:
                continue
            if not isinstance(members, list):
                raise unrecognized(schema)
            if key == "allOf":
                groups += [[member] for member in members]
            elif members:
                groups.append(members)
        return groups

    def _product(self, groups: list[list[Any]], trail: frozenset[str]) -> list[Flat]:
        result: list[Flat] = [{}]
        for members in groups:
            flats = [flat for member in members for flat in self._flat(member, trail)]
            if len(result) * len(flats) > MAX_ALTERNATIVES:
                raise too_large(f"{MAX_ALTERNATIVES} combinations of alternatives")
            pairs = ((left, right) for left in result for right in flats)
            result = [both for left, right in pairs if (both := merged(left, right)) is not None]
        return result

    def _flat(self, schema: Any, trail: frozenset[str]) -> list[Flat]:
        self._steps += 1
        if self._steps > MAX_STEPS or len(trail) > 50:
            raise too_large(f"{MAX_STEPS} combined parts")
        if isinstance(schema, bool):
            return [{}] if schema else []
        if not isinstance(schema, dict):
            raise unrecognized(schema)
        if _is_never(schema):
            return []
        if (ref := self.plain_ref(schema)) is not None:
            if ref in trail:  # a schema that is part of itself adds nothing
                return [{}]
            return self._flat(self._resolve(ref), trail | {ref})
        return [_own(schema)] if self.is_flat(schema) else self._product(self._groups(schema), trail)


def _is_never(schema: Any) -> bool:
    """True for a schema that no value satisfies because of `not`, such as zod's `never`. Any other `not` is ignored."""
    return schema is False or (isinstance(schema, dict) and "not" in schema and _is_any(schema["not"]))


def _is_any(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return schema is True
    return schema.keys() - {"not"} <= _ANNOTATIONS and ("not" not in schema or _is_never(schema["not"]))


def _own(schema: Flat) -> Flat:
    """Keep what limits the value, in the spelling of the newest draft."""
    own = {key: value for key, value in schema.items() if key in KEYWORDS}
    if own.get("type", "") is None:
        del own["type"]
    if "const" in schema:
        own["enum"] = [schema["const"]]
    return own
