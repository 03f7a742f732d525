"""The meaning of a JSON schema in format: that of Ollama's grammar.

The schemas hold booleans only, so that answers are short whatever the model writes.
"""

from __future__ import annotations

import re
from typing import Any

from vllama_pool.router.compat.checks.answers import whole
from vllama_pool.router.compat.checks.check import Check, covers
from vllama_pool.router.compat.expect import expect, field, parsed, same
from vllama_pool.router.compat.server import SHORT, CheckedServer

BOOLEAN = {"type": "boolean"}
OBJECT: dict[str, Any] = {"type": "object", "properties": {"ok": BOOLEAN}, "required": ["ok"]}
LIST: dict[str, Any] = {"type": "array", "items": BOOLEAN, "minItems": 1, "maxItems": 3}
PROMPT = "Describe Anna by name, age, city and ok. Write wide, indented JSON with all of it."
ROOM = {**SHORT, "num_predict": 192}
WIDE = re.compile(r"\s{23,}")
"""More than Ollama's grammar allows: two line ends and 20 blanks."""


async def answer(server: CheckedServer, schema: dict[str, Any]) -> str:
    """A complete answer."""
    found = await whole(server, "generate", prompt=PROMPT, format=schema, think=False, options=ROOM)
    same("done_reason", "stop", field(found, "done_reason", str))
    return field(found, "response", str)


async def value(server: CheckedServer, schema: dict[str, Any]) -> Any:
    return parsed((await answer(server, schema)).encode())


def is_object(found: Any, *keys: str) -> None:
    expect(isinstance(found, dict) and list(found) == list(keys), f"an object of {', '.join(keys)}", found)


def ignored(keywords: dict[str, Any], base: dict[str, Any] = OBJECT) -> Check:

    async def run(server: CheckedServer) -> None:
        found = await value(server, {**base, **keywords})
        if base is OBJECT:
            is_object(found, "ok")
        else:
            same("type", list, type(found))

    return Check(frozenset({218}), f"format with {', '.join(keywords)}", run)


IGNORED = (
    ignored({"uniqueItems": True}, LIST),
    ignored({"contains": BOOLEAN, "minContains": 1}, LIST),
    ignored({"minProperties": 1, "maxProperties": 3}),
    ignored({"propertyNames": {"pattern": "^[a-z]+$"}}),
    ignored({"patternProperties": {"^x-": BOOLEAN}}),
    ignored({"dependentRequired": {"ok": ["ok"]}, "unevaluatedProperties": False}),
    ignored({"if": {"required": ["ok"]}, "then": {}, "else": {}, "not": {"required": ["no"]}}),
    ignored({"$schema": "http://json-schema.org/draft-07/schema#", "title": "T", "default": {}, "examples": [{}]}),
    ignored({"x-order": 1, "readOnly": True, "deprecated": False}),
)


def closed(name: str, schema: dict[str, Any], *within: str) -> Check:
    """`within`: keys of the objects around the closed one."""

    async def run(server: CheckedServer) -> None:
        found = await value(server, schema)
        for key in within:
            is_object(found, key)
            found = found[key]
        is_object(found, "ok")

    return Check(frozenset({219}), f"format closes {name}", run)


def around(inner: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"inner": inner}, "required": ["inner"]}


CLOSED = (
    closed("an object", OBJECT),
    closed("an object without a type", {key: OBJECT[key] for key in ("properties", "required")}),
    closed("an inner object", around(OBJECT), "inner"),
    closed("an object in $defs", {**around({"$ref": "#/$defs/It"}), "$defs": {"It": OBJECT}}, "inner"),
    closed("an object in allOf", {"allOf": [OBJECT]}),
    closed("an object in anyOf", around({"anyOf": [OBJECT]}), "inner"),
)


@covers(219)
async def additional_properties_open_an_object(server: CheckedServer) -> None:
    """The model may add keys without an end."""
    schema = {**OBJECT, "additionalProperties": BOOLEAN}
    found = await whole(server, "generate", prompt=PROMPT, format=schema, think=False, options=SHORT)
    text = field(found, "response", str)
    expect(re.match(r'\s*\{\s*"ok"', text), "an object that begins with ok", text)


@covers(220)
async def required_properties_come_first(server: CheckedServer) -> None:
    properties = dict.fromkeys(("a", "b", "c", "d"), BOOLEAN)
    found = await value(server, {"type": "object", "properties": properties, "required": ["d", "b"]})
    expect(isinstance(found, dict) and list(found)[:2] == ["b", "d"], "first b, then d", found)
    expect(list(found)[2:] in ([], ["a"], ["c"], ["a", "c"]), "then a, then c, or none", found)


@covers(222)
async def white_space_is_limited(server: CheckedServer) -> None:
    for schema in (OBJECT, around(OBJECT), LIST):
        text = await answer(server, schema)
        parsed(text.encode())
        expect(not WIDE.search(text), "at most 22 blanks in a row", text)
