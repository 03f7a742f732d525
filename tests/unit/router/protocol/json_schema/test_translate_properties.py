"""Properties of the schema translation, over generated schemas and documents."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.json_schema.translate import translated

Pair = tuple[Any, Any]
"""A schema and a document that it allows and that Ollama's grammar can write."""

KEYWORDS = (
    *("$ref", "$defs", "definitions", "type", "enum", "const", "allOf", "anyOf", "oneOf", "not", "properties"),
    *("required", "additionalProperties", "patternProperties", "items", "prefixItems", "additionalItems"),
    *("minItems", "maxItems", "uniqueItems", "pattern", "format", "minLength", "maxLength", "minimum", "maximum"),
    *("exclusiveMinimum", "exclusiveMaximum", "multipleOf", "title", "default", "nullable", "x-guidance", "$anchor"),
)
TYPES = ("string", "integer", "number", "boolean", "null", "array", "object", "foo")
REFS = ("#", "#/$defs/a", "#/properties/a", "#/definitions/b", "#/anyOf/0", "https://example.org/x", "#/$defs")
ORDER = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))

names = st.sampled_from(["a", "b", "$ref", "type", "properties", "enum"])
scalars = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=4)),
    *(st.sampled_from(TYPES), st.sampled_from(REFS), st.just("^a{2}$")),
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(st.sampled_from(KEYWORDS), names), inner, max_size=5)
    ),
    max_leaves=25,
)
annotations = st.fixed_dictionaries(
    {},
    optional={
        "title": st.just("T"),
        "default": st.just({"type": "foo"}),
        "uniqueItems": st.booleans(),
        "nullable": st.booleans(),
        "$comment": st.just("c"),
    },
)


@st.composite
def strings(draw: st.DrawFn) -> Pair:
    value = draw(st.text(st.characters(categories=["L", "N"]), max_size=6))
    bounds = draw(
        st.sampled_from([{}, {"maxLength": len(value)}, {"minLength": len(value)}, {"pattern": "^.*$"}, {"not": False}])
    )
    return {"type": "string", **bounds}, value


@st.composite
def numbers(draw: st.DrawFn) -> Pair:
    value = draw(st.integers(-(10**12), 10**12))
    bounds = draw(
        st.sampled_from(
            [
                *({}, {"minimum": value}, {"maximum": value}, {"exclusiveMinimum": value - 1, "maximum": value + 5}),
                *({"minimum": -(2**63), "maximum": 2**63 - 1}, {"minimum": -1e40, "maximum": 1e300}),
                *({"multipleOf": 1}, {"minimum": value - 0.5, "exclusiveMaximum": value + 0.5}),
            ]
        )
    )
    return {"type": draw(st.sampled_from(["integer", "number"])), **bounds}, value


@st.composite
def constants(draw: st.DrawFn) -> Pair:
    value = draw(st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=3)))
    others = draw(st.lists(st.integers(6, 9), max_size=2))
    return draw(st.sampled_from([{"const": value}, {"enum": [*others, value]}])), value


@st.composite
def lists(draw: st.DrawFn, inner: st.SearchStrategy[Pair]) -> Pair:
    schema, value = draw(inner)
    count = draw(st.integers(0, 2))
    if draw(st.booleans()):
        return {"type": "array", "items": schema, "minItems": count}, [value] * count
    other, second = draw(inner)
    key = draw(st.sampled_from(["items", "prefixItems"]))
    return {"type": "array", key: [schema, other]}, [value, second]


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Pair]) -> Pair:
    members = draw(st.dictionaries(names, inner, max_size=4))
    required = [name for name in members if draw(st.booleans())]
    value = {name: member[1] for name, member in members.items() if name in required or draw(st.booleans())}
    schema = {"type": "object", "properties": {name: member[0] for name, member in members.items()}}
    rest = draw(st.sampled_from([None, True, False, {"type": "null"}]))
    if rest is not None:
        schema["additionalProperties"] = rest
    if rest is True or isinstance(rest, dict):
        value["more"] = None
    return {**schema, "required": required, **draw(annotations)}, value


@st.composite
def combined(draw: st.DrawFn, inner: st.SearchStrategy[Pair]) -> Pair:
    schema, value = draw(inner)
    other = draw(inner)[0]
    form = draw(st.sampled_from(["anyOf", "allOf", "true", "ref", "types", "two objects"]))
    match form:
        case "anyOf":
            return {"anyOf": draw(st.permutations([schema, other]))}, value
        case "allOf":
            return {"allOf": [schema], "description": "d"}, value
        case "true":
            return {"allOf": [True, schema, {}]}, value
        case "types" if "type" in schema:
            return {**schema, "type": [schema["type"], "null"]}, draw(st.sampled_from([value, None]))
        case "two objects":
            parts = [{"type": "object", "properties": {name: schema}, "required": [name]} for name in ("a", "b")]
            return {"allOf": parts}, {"a": value, "b": value}
    return {"$ref": "#/$defs/" + draw(st.sampled_from(["x", "x y"])), "$defs": {"x": schema, "x y": schema}}, value


pairs = st.recursive(
    st.one_of(strings(), numbers(), constants()),
    lambda inner: st.one_of(lists(inner), objects(inner), combined(inner)),
    max_leaves=8,
)


def with_references(pair: Pair) -> Pair:
    """Move nested `$defs`, which pointers name from the root, to the root under names of their own."""
    definitions: dict[str, Any] = {}

    def moved(schema: Any) -> Any:
        if isinstance(schema, list):
            return [moved(each) for each in schema]
        if not isinstance(schema, dict):
            return schema
        if isinstance(target := schema.get("$ref"), str) and isinstance(schema.get("$defs"), dict):
            name = f"d{len(definitions)}"
            definitions[name] = True
            definitions[name] = moved(schema["$defs"][target.rpartition("/")[2]])
            return {"$ref": f"#/$defs/{name}"}
        return {key: moved(value) for key, value in schema.items()}

    schema = moved(pair[0])
    return ({**schema, "$defs": definitions} if definitions else schema), pair[1]


@ORDER
@given(pairs.map(with_references))
def test_a_document_that_the_schema_allows_stays_allowed(pair: Pair) -> None:
    schema, document = pair
    assert jsonschema_rs.is_valid(translated(schema), document)


@ORDER
@given(pairs.map(with_references))
def test_translating_twice_is_translating_once(pair: Pair) -> None:
    once = translated(pair[0])
    assert translated(once) == once


@ORDER
@given(st.dictionaries(st.sampled_from(KEYWORDS), anything, max_size=6))
def test_any_json_object_is_translated_or_refused_and_the_result_is_a_valid_schema(schema: dict[str, Any]) -> None:
    try:
        result = translated(schema)
    except BadRequest:
        return
    assert jsonschema_rs.meta.is_valid(result)
    assert translated(result) == result
