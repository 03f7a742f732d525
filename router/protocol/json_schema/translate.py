"""Translation of a client's JSON schema into one that means in vLLM what it means in Ollama (R057).

Ollama's grammar knows fewer keywords than JSON Schema and ignores the rest, where vLLM refuses it. It closes an object
that declares properties, unless `additionalProperties` opens it, and writes required properties first. Where the
grammar is stricter than the schema without a reason (an empty schema is an object, the first keyword of several wins),
the schema's own meaning is kept.

The result uses `type`, `enum`, `const`, `anyOf`, `$ref` into `$defs`, and the bounds of objects, arrays, strings and
numbers. The translation is bounded in depth and size, and changes nothing when applied to its own result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vllama_pool.router.protocol.json_schema import scalars
from vllama_pool.router.protocol.json_schema.alternatives import Alternatives
from vllama_pool.router.protocol.json_schema.errors import too_large, unrecognized, unsatisfiable
from vllama_pool.router.protocol.json_schema.merge import Flat, canonical
from vllama_pool.router.protocol.json_schema.references import References

MAX_DEPTH = 80
MAX_SCHEMAS = 20_000
INLINE_LEVELS = 10
"""Deeper schemas move to `$defs`, since vLLM refuses a schema of more than 64 nested objects and lists."""
MAX_ITEMS = 1000
ANY: Flat = {}
COMPACT = {"x-guidance": {"whitespace_flexible": False}}
"""Tells guidance to write no white space between tokens, also where vLLM's flags do not. xgrammar ignores it."""

_UNFINISHED: Flat = {"anyOf": []}

Node = Flat | None
"""A translated schema; None if no value satisfies it."""


def translated(schema: Flat) -> Flat:
    """Raises BadRequest."""
    grammar = _Grammar(schema)
    root = grammar.visit(schema or {"type": "object"})
    if root is None:
        raise unsatisfiable()
    definitions = {"$defs": grammar.definitions} if grammar.definitions else {}
    return root | definitions | COMPACT


class _Grammar:
    def __init__(self, document: Flat) -> None:
        self.definitions: dict[str, Flat] = {}
        self._recursive: set[str] = set()
        self._references = References(document)
        self._alternatives = Alternatives(self._references.resolve)
        self._depth = 0
        self._level = 0
        self._schemas = 0

    def visit(self, schema: Any) -> Node:
        self._schemas += 1
        if self._schemas > MAX_SCHEMAS:
            raise too_large(f"{MAX_SCHEMAS} parts")
        if isinstance(schema, bool):
            return ANY if schema else None
        if not isinstance(schema, dict):
            raise unrecognized(schema)
        if (ref := self._alternatives.plain_ref(schema)) is not None:
            return self._reference(ref)
        options = self._alternatives.of(schema)
        if len(options) == 1 and self._alternatives.is_flat(options[0]):
            return self._value(options[0])
        return _any_of(map(self._inner, options))

    def _child(self, schema: Any) -> Node:
        """Visit a property's or an item's schema."""
        self._level += 1
        try:
            node = self._inner(schema)
            is_deep = self._level % INLINE_LEVELS == 0 and node is not None and any(map(_nests, node.values()))
            return self._hoisted(node) if node is not None and is_deep else node
        finally:
            self._level -= 1

    def _inner(self, schema: Any) -> Node:
        if self._depth >= MAX_DEPTH:
            raise too_large(f"{MAX_DEPTH} levels")
        self._depth += 1
        try:
            return self.visit(schema)
        finally:
            self._depth -= 1

    def _hoisted(self, node: Flat) -> Flat:
        name = self._references.name(f"#hoisted/{len(self.definitions)}/nested")
        self.definitions[name] = node
        return {"$ref": f"#/$defs/{name}"}

    def _reference(self, ref: str) -> Node:
        ref = self._alternatives.target(ref)
        name = self._references.known(ref)
        if name is None:
            name = self._references.name(ref)
            self._define(name, self._references.resolve(ref))
        if self.definitions.get(name) is _UNFINISHED:
            self._recursive.add(name)
        return {"$ref": f"#/$defs/{name}"} if name in self.definitions else None

    def _define(self, name: str, schema: Any) -> None:
        outer, self._level = self._level, 0
        self.definitions[name] = _UNFINISHED  # keeps the order of first use
        node = self._inner(schema)
        self._level = outer
        if node is not None:
            self.definitions[name] = node
        elif name in self._recursive:
            raise unsatisfiable()
        else:
            del self.definitions[name]

    def _value(self, flat: Flat) -> Node:
        if "enum" in flat:
            return scalars.listed(flat)
        kind = flat.get("type")
        if isinstance(kind, list):
            return _any_of(self._value(flat | {"type": each}) for each in kind)
        match _inferred_type(flat) if kind is None else kind:
            case "":
                return ANY
            case "object":
                return self._object(flat)
            case "array":
                return self._array(flat)
            case "string":
                return scalars.string(flat)
            case "integer":
                return scalars.integer(flat)
            case "number":
                return scalars.number(flat)
            case "boolean" | "null" as simple:
                return {"type": simple}
        raise unrecognized(flat)

    def _object(self, flat: Flat) -> Node:
        rest = flat.get("additionalProperties")
        if not isinstance(rest, (bool, dict)):
            rest = "properties" not in flat
        declared = _declared(flat)
        required = _required(flat, declared, rest)
        properties: dict[str, Flat] = {}
        for name in [*required, *(name for name in declared if name not in required)]:
            node = self._child(declared.get(name, rest))
            if node is not None:
                properties[name] = node
            elif name in required:
                return None
        others = self._child(rest)
        result: Flat = {"type": "object"}
        if properties or others is None:
            result["properties"] = properties
        if required:
            result["required"] = list(required)
        if properties or others != ANY:
            result["additionalProperties"] = False if others is None else others or True
        return result

    def _array(self, flat: Flat) -> Node:
        prefix, rest = _prefix_and_rest(flat)
        nodes = [self._child(each) for each in prefix]
        items = self._child(rest)
        least = scalars.count(flat, "minItems", MAX_ITEMS)
        most = scalars.count(flat, "maxItems", MAX_ITEMS)
        if prefix and least is None:
            least = len(prefix) if most is None else min(most, len(prefix))
        if items is None:
            most = min(len(prefix), MAX_ITEMS if most is None else most)
        least = least or 0
        possible = next((index for index, node in enumerate(nodes) if node is None), None)
        if possible is not None:
            nodes, items, most = nodes[:possible], None, min(possible, MAX_ITEMS if most is None else most)
        if most is not None and most < least:
            return None
        result: Flat = {"type": "array"}
        if nodes:
            result |= {"prefixItems": nodes, "minItems": least}
        if items is None and nodes:
            result["items"] = False
        elif items:
            result["items"] = items
        return result | scalars.bounds("minItems", least, "maxItems", most)


def _nests(value: Any) -> bool:
    return isinstance(value, (dict, list))


def _inferred_type(flat: Flat) -> str:
    """Return the type that Ollama reads from the other keywords; "" for any."""
    if "properties" in flat or flat.get("additionalProperties", True) is not True:
        return "object"
    if "items" in flat or "prefixItems" in flat:
        return "array"
    if "pattern" in flat or scalars.format_of(flat) in scalars.OLLAMA_FORMATS:
        return "string"
    return ""


def _declared(flat: Flat) -> Mapping[str, Any]:
    """Number a list of properties, as Ollama's grammar does."""
    properties = flat.get("properties", {})
    if isinstance(properties, list):
        return {str(index): schema for index, schema in enumerate(properties)}
    if not isinstance(properties, dict):
        raise unrecognized(flat)
    return properties


def _required(flat: Flat, declared: Mapping[str, Any], rest: Any) -> dict[str, None]:
    """Return the required names in the order of `properties`; undeclared ones only if the object is open."""
    names = flat.get("required")
    if not isinstance(names, list):
        return {}
    wanted = {name: None for name in names if isinstance(name, str)}
    ordered = {name: None for name in declared if name in wanted}
    return ordered if rest is False else ordered | wanted


def _prefix_and_rest(flat: Flat) -> tuple[list[Any], Any]:
    """Read the tuples of all drafts. A tuple is closed unless the schema of further items is given."""
    items = flat.get("items", True)
    if isinstance(items, list):
        return items, flat.get("additionalItems", False)
    prefix = flat.get("prefixItems")
    if isinstance(prefix, list) and prefix:
        return prefix, flat.get("items", False)
    return [], items


def _any_of(nodes: Iterable[Node]) -> Node:
    """Join alternatives; the first of equal ones stays."""
    unique: dict[str, Flat] = {}
    for node in nodes:
        if node is None:
            continue
        if node == ANY:
            return ANY
        for each in node.get("anyOf", [node]):
            unique.setdefault(canonical(each), each)
    kept = list(unique.values())
    if not kept:
        return None
    return kept[0] if len(kept) == 1 else {"anyOf": kept}
