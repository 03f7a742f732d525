from __future__ import annotations

import math
from typing import Any

import pytest

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.json_schema.translate import COMPACT, MAX_DEPTH, translated

STRING, NULL, ANY = {"type": "string"}, {"type": "null"}, {}
INTEGER = {"type": "integer", "minimum": -9999999999999999, "maximum": 9999999999999999}
INT64 = {"type": "integer", "minimum": -(2**63) + 1024, "maximum": 2**63 - 1}


def turned(schema: Any) -> dict[str, Any]:
    """Translate a schema as a property's, where `{}` means any value, and check that a second time changes nothing."""
    whole = translated({"type": "object", "properties": {"x": schema}})
    assert translated(whole) == whole
    assert {key: whole[key] for key in COMPACT} == COMPACT
    result: dict[str, Any] = whole["properties"]["x"]
    return result


def closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    names = {"required": list(required)} if required else {}
    return {"type": "object", "properties": properties, **names, "additionalProperties": False}


def refusal(schema: Any) -> str:
    with pytest.raises(BadRequest, match=r"^JSON schema conversion failed:\n") as refused:
        translated(schema)
    return refused.value.text.partition("\n")[2]


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, {"type": "array", "items": STRING}),
        ({"type": "array", "contains": {"type": "null"}, "minContains": 2}, {"type": "array"}),
        ({"type": "object", "minProperties": 1, "propertyNames": {"pattern": "^a"}}, {"type": "object"}),
        ({"type": "object", "patternProperties": {"^a": {"type": "null"}}}, {"type": "object"}),
        ({"type": "number", "multipleOf": 5}, {"type": "number"}),
        ({"type": "string", "contentEncoding": "base64", "writeOnly": True}, STRING),
        ({"type": "string", "not": {"const": "x"}, "if": {}, "then": {}, "else": {}}, STRING),
        ({"type": "string", "title": "T", "description": "D", "default": {"type": "foo"}, "examples": [1]}, STRING),
        ({"type": "string", "nullable": True, "widget": "x", "deprecated": True}, STRING),
        ({"type": "object", "dependentRequired": {"a": ["b"]}, "unevaluatedProperties": False}, {"type": "object"}),
        ({"type": "string", "format": "password"}, STRING),
    ],
)
def test_keywords_that_ollamas_grammar_does_not_know_are_left_out(schema: Any, expected: Any) -> None:
    assert turned(schema) == expected


def test_names_of_properties_are_no_keywords() -> None:
    properties = dict.fromkeys(("uniqueItems", "$ref", "enum", "type", "properties", "default", "not", "$defs"), STRING)
    assert turned({"type": "object", "properties": properties}) == closed(properties)


def test_values_are_no_schemas() -> None:
    value = {"uniqueItems": True, "$ref": "#/x", "properties": [1]}
    assert turned({"const": value}) == {"const": value}
    assert turned({"enum": [value, {"type": "foo"}]}) == {"enum": [value, {"type": "foo"}]}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "object", "properties": {"a": STRING}}, closed({"a": STRING})),
        ({"properties": {"a": STRING}}, closed({"a": STRING})),
        ({"type": "object", "properties": {}}, closed({})),
        ({"type": "object"}, {"type": "object"}),
        ({"type": "object", "additionalProperties": True}, {"type": "object"}),
        ({"type": "object", "additionalProperties": False}, closed({})),
        ({"additionalProperties": NULL}, {"type": "object", "additionalProperties": NULL}),
        (
            {"type": "object", "properties": {"a": STRING}, "additionalProperties": True},
            {"type": "object", "properties": {"a": STRING}, "additionalProperties": True},
        ),
        (
            {"type": "object", "properties": {"a": STRING}, "additionalProperties": {"properties": {"b": NULL}}},
            {"type": "object", "properties": {"a": STRING}, "additionalProperties": closed({"b": NULL})},
        ),
        (
            {"type": "array", "items": {"type": "object", "properties": {"a": {"properties": {"b": NULL}}}}},
            {"type": "array", "items": closed({"a": closed({"b": NULL})})},
        ),
        ({"anyOf": [{"properties": {"a": NULL}}, NULL]}, {"anyOf": [closed({"a": NULL}), NULL]}),
    ],
)
def test_an_object_with_properties_is_closed_unless_the_schema_opens_it(schema: Any, expected: Any) -> None:
    assert turned(schema) == expected


def test_required_properties_come_first_each_in_the_order_sent() -> None:
    names = dict.fromkeys("dcba", STRING)
    result = turned({"type": "object", "properties": names, "required": ["a", "c", 5, "c"]})
    assert list(result["properties"]) == ["c", "a", "d", "b"]
    assert result["required"] == ["c", "a"]


def test_a_required_property_that_is_not_declared_is_asked_for_only_of_an_open_object() -> None:
    assert turned({"properties": {"a": STRING}, "required": ["a", "b"]}) == closed({"a": STRING}, "a")
    assert turned({"type": "object", "required": ["b"], "additionalProperties": NULL}) == {
        "type": "object",
        "properties": {"b": NULL},
        "required": ["b"],
        "additionalProperties": NULL,
    }


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"anyOf": [STRING, NULL]}, {"anyOf": [STRING, NULL]}),
        ({"oneOf": [STRING, NULL]}, {"anyOf": [STRING, NULL]}),
        ({"anyOf": [STRING, {"anyOf": [NULL, STRING]}]}, {"anyOf": [STRING, NULL]}),
        ({"anyOf": [STRING]}, STRING),
        ({"anyOf": [STRING, {}]}, ANY),
        ({"anyOf": [STRING, False]}, STRING),
        ({"type": ["string", "null"]}, {"anyOf": [STRING, NULL]}),
        ({"type": ["string", "null"], "maxLength": 3}, {"anyOf": [STRING | {"maxLength": 3}, NULL]}),
        ({"type": ["string", "null"], "enum": ["a", None]}, {"enum": ["a", None]}),
        (
            {
                "type": "object",
                "properties": {"a": NULL, "b": NULL},
                "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
            },
            {"anyOf": [closed({"a": NULL, "b": NULL}, "a"), closed({"b": NULL, "a": NULL}, "b")]},
        ),
        ({"anyOf": [{"maxLength": 1}, {"minLength": 9}], "type": "string"}, None),
    ],
)
def test_alternatives_become_any_of(schema: Any, expected: Any) -> None:
    lengths = {"anyOf": [STRING | {"maxLength": 1}, STRING | {"minLength": 9}]}
    assert turned(schema) == (lengths if expected is None else expected)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (
            [{"properties": {"a": STRING}, "required": ["a"]}, {"properties": {"b": NULL}}],
            closed({"a": STRING, "b": NULL}, "a"),
        ),
        (
            [
                {"properties": {"a": STRING}, "additionalProperties": False},
                {"properties": {"b": NULL}, "additionalProperties": False},
            ],
            closed({"a": STRING, "b": NULL}),
        ),
        (
            [{"properties": {"a": {"type": "string", "maxLength": 5}}}, {"properties": {"a": {"maxLength": 3}}}],
            closed({"a": STRING | {"maxLength": 3}}),
        ),
        ([{"type": ["string", "null"]}, {"type": ["null", "boolean"]}], NULL),
        ([{"type": "number"}, {"type": "integer"}], INTEGER),
        ([{"enum": ["a", "b"]}, {"enum": ["b", "c"]}, {"type": "string"}], {"const": "b"}),
        ([{"anyOf": [STRING, NULL]}, {"anyOf": [NULL, {"type": "boolean"}]}], NULL),
        (
            [{"minimum": 1}, {"maximum": 9, "minimum": 3, "type": "integer"}],
            {"type": "integer", "minimum": 3, "maximum": 9},
        ),
        ([STRING], STRING),
        ([True, STRING], STRING),
        ([], ANY),
        ([{"type": "array", "items": STRING}, {"maxItems": 2}], {"type": "array", "items": STRING, "maxItems": 2}),
    ],
)
def test_all_of_is_joined_before_objects_are_closed(schema: list[Any], expected: Any) -> None:
    assert turned({"allOf": schema}) == expected


def test_properties_next_to_all_of_belong_to_the_object() -> None:
    schema = {"properties": {"a": STRING}, "allOf": [{"properties": {"b": NULL}, "required": ["b"]}]}
    assert turned(schema) == closed({"b": NULL, "a": STRING}, "b")


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "integer"}, INTEGER),
        ({"type": "integer", "minimum": 1, "maximum": 5}, {"type": "integer", "minimum": 1, "maximum": 5}),
        (
            {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 5},
            {"type": "integer", "minimum": 2, "maximum": 4},
        ),
        ({"type": "integer", "minimum": 1, "exclusiveMinimum": True}, INTEGER | {"minimum": 2}),
        ({"type": "integer", "minimum": 0.5, "maximum": 2.5}, {"type": "integer", "minimum": 1, "maximum": 2}),
        ({"type": "integer", "minimum": 10**17}, {"type": "integer", "minimum": 10**17, "maximum": 2**63 - 1}),
        ({"type": "integer", "maximum": 10**30}, INTEGER | {"maximum": 2**63 - 1}),
        ({"type": "integer", "minimum": 10**30}, INTEGER),
        ({"type": "integer", "minimum": -math.inf, "maximum": math.inf}, INT64),
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, INT64),
        ({"type": "integer", "exclusiveMinimum": -(2**63), "maximum": -(10**17)}, INT64 | {"maximum": -(10**17)}),
        ({"type": "number", "minimum": 0, "maximum": 1}, {"type": "number", "minimum": 0, "maximum": 1}),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": True}, {"type": "number", "exclusiveMinimum": 0}),
        ({"type": "number", "minimum": 3, "exclusiveMinimum": 1}, {"type": "number", "minimum": 3}),
        ({"type": "number", "minimum": "3"}, {"type": "number"}),
        ({"type": "number", "minimum": -3.4028234663852886e38, "maximum": 3.4028234663852886e38}, {"type": "number"}),
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 1e300}, {"type": "number", "minimum": 0}),
        ({"type": "number", "minimum": 2.2250738585072014e-308}, {"type": "number"}),
        ({"type": "number", "minimum": 3, "exclusiveMinimum": -1e20}, {"type": "number", "minimum": 3}),
        ({"type": "number", "minimum": 1.0000001, "maximum": 1.0000002}, {"type": "number"}),
        ({"type": "number", "minimum": 0.5, "maximum": 0.5}, {"const": 0.5}),
        ({"type": "string", "minLength": 1, "maxLength": 3}, STRING | {"minLength": 1, "maxLength": 3}),
        ({"type": "string", "maxLength": 10**9}, STRING),
        ({"type": "string", "format": "date", "maxLength": 3}, STRING | {"format": "date"}),
        ({"type": "string", "format": "uuid4"}, STRING | {"format": "uuid"}),
        ({"format": "date-time"}, STRING | {"format": "date-time"}),
        ({"type": "boolean", "enum": [True]}, {"const": True}),
        ({"type": "string", "enum": [1, 2]}, {"enum": [1, 2]}),
        ({"type": "string", "enum": ["a", 1]}, {"const": "a"}),
        ({"enum": [1, True, 1, "1", None]}, {"enum": [1, True, "1", None]}),
        ({"const": None}, {"const": None}),
        ({"type": "null"}, NULL),
        ({"type": None, "maxLength": 3}, ANY),
        ({"title": "Anything"}, ANY),
        (True, ANY),
    ],
)
def test_values_keep_the_bounds_that_a_grammar_can_express(schema: Any, expected: Any) -> None:
    assert turned(schema) == expected


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "array"}, {"type": "array"}),
        ({"items": STRING}, {"type": "array", "items": STRING}),
        ({"type": "array", "items": False}, {"type": "array", "maxItems": 0}),
        (
            {"type": "array", "items": NULL, "minItems": 1.0, "maxItems": 2},
            {"type": "array", "items": NULL, "minItems": 1, "maxItems": 2},
        ),
        ({"type": "array", "items": NULL, "maxItems": 10**6}, {"type": "array", "items": NULL}),
        (
            {"type": "array", "items": [STRING, NULL]},
            {"type": "array", "prefixItems": [STRING, NULL], "items": False, "minItems": 2, "maxItems": 2},
        ),
        (
            {"type": "array", "prefixItems": [STRING, NULL], "minItems": 2, "maxItems": 2},
            {"type": "array", "prefixItems": [STRING, NULL], "items": False, "minItems": 2, "maxItems": 2},
        ),
        (
            {"type": "array", "items": [STRING], "additionalItems": NULL},
            {"type": "array", "prefixItems": [STRING], "items": NULL, "minItems": 1},
        ),
        (
            {"type": "array", "prefixItems": [STRING], "items": NULL, "minItems": 0},
            {"type": "array", "prefixItems": [STRING], "items": NULL, "minItems": 0},
        ),
    ],
)
def test_lists_and_tuples_of_all_drafts_are_read(schema: Any, expected: Any) -> None:
    assert turned(schema) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"^\d{3}-[a-z\-]+$", r"^\d{3}-[a-z\-]+$"),
        ("abc", "abc"),
        ("^(a|b){2,4}$", "^(a|b){2,4}$"),
        (r"^(?<year>\d+)-(?:x)$", r"^(\d+)-(x)$"),
        (r"^\d\d(?::\d\d)?$", r"^\d\d(:\d\d)?$"),
        (r"^\<a\>$", "^<a>$"),
        (r"^(?!x).*$", None),
        (r"^(?=.*\d).+$", None),
        (r"^(a)\1$", None),
        (r"^\bword\b$", None),
        (r"^\p{L}+$", None),
        ("^.{0,5000}$", None),
        ("^(a{50}){50}$", None),
        ("^a.*?$", None),
        ("^[a-z&&[^b]]$", None),
        ("^a$b", None),
        ("a^b", None),
        ("(", None),
        ("a)", None),
        ("*a", None),
        ("[z-a]", None),
        ("(" * 30 + ")" * 30, None),
        ("x" * 1001, None),
    ],
)
def test_a_pattern_that_a_grammar_cannot_express_is_left_out(pattern: str, expected: str | None) -> None:
    assert turned({"type": "string", "pattern": pattern}) == STRING | ({"pattern": expected} if expected else {})


def test_references_of_all_forms_lead_to_defs() -> None:
    person = {"type": "object", "properties": {"n": STRING}, "required": ["n"]}
    for place, ref in (
        ({"$defs": {"P": person}}, "#/$defs/P"),
        ({"definitions": {"P": person}}, "#/definitions/P"),
        ({"properties": {"p": person}}, "#/properties/p"),
        ({"$defs": {"a/b": {"P": [person]}}}, "#/$defs/a~1b/P/0"),
        ({"$defs": {"P": {"$ref": "#/$defs/Q"}, "Q": person}}, "#/$defs/P"),
    ):
        result = translated({"type": "array", "items": {"$ref": ref, "description": "d"}, **place})
        name = result["items"]["$ref"].removeprefix("#/$defs/")
        assert result["$defs"] == {name: closed({"n": STRING}, "n")}
        assert translated(result) == result


def test_a_reference_next_to_other_keywords_is_joined_with_them() -> None:
    schema = {"$ref": "#/$defs/S", "maxLength": 3, "$defs": {"S": {"type": "string", "minLength": 1}}}
    assert translated(schema) == STRING | {"minLength": 1, "maxLength": 3} | COMPACT


def test_a_schema_that_contains_itself_stays_recursive() -> None:
    node = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/N"}, NULL]}}}
    expected = closed({"next": {"anyOf": [{"$ref": "#/$defs/N"}, NULL]}})
    assert translated({"$ref": "#/$defs/N", "$defs": {"N": node}}) == {
        "$ref": "#/$defs/N",
        "$defs": {"N": expected},
        **COMPACT,
    }
    tree = translated({"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}})
    ((name, definition),) = tree["$defs"].items()
    assert definition["properties"]["kids"]["items"] == {"$ref": f"#/$defs/{name}"}


def test_an_alternative_that_no_value_satisfies_is_left_out() -> None:
    impossible = {"type": "integer", "minimum": 5, "maximum": 3}
    assert turned({"anyOf": [impossible, STRING]}) == STRING
    assert turned({"properties": {"a": impossible, "b": NULL}}) == closed({"b": NULL})
    schema = {"anyOf": [{"$ref": "#/$defs/I"}, NULL, {"$ref": "#/$defs/I"}], "$defs": {"I": impossible}}
    assert translated(schema) == NULL | COMPACT


@pytest.mark.parametrize(
    "never", [{"not": {}}, {"not": True}, {"not": {"title": "T", "$comment": "c"}}, {"type": "string", "not": {}}]
)
def test_a_schema_whose_not_excludes_all_values_is_impossible(never: Any) -> None:
    assert turned({"anyOf": [never, STRING]}) == STRING
    assert turned({"properties": {"a": never, "b": NULL}}) == closed({"b": NULL})
    assert turned({"type": "object", "additionalProperties": never}) == closed({})
    assert turned({"type": "array", "items": never}) == {"type": "array", "maxItems": 0}
    assert turned({"anyOf": [{"allOf": [STRING, never]}, NULL]}) == NULL
    assert translated({"type": "array", "items": {"$ref": "#/$defs/N"}, "$defs": {"N": never}})["maxItems"] == 0
    assert refusal(never) == refusal({"type": "array", "items": never, "minItems": 1})


@pytest.mark.parametrize("excluded", [{"not": {}}, False, {"type": "null"}, {"uniqueItems": True}, {"const": 1}])
def test_a_not_that_excludes_some_or_no_values_is_ignored(excluded: Any) -> None:
    assert turned({"not": excluded}) == ANY
    assert turned({"type": "string", "not": excluded}) == STRING


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "foo"}, 'Unrecognized schema: {"type":"foo"}'),
        ({"type": 5}, 'Unrecognized schema: {"type":5}'),
        ({"type": ["string", "foo"]}, 'Unrecognized schema: {"type":"foo"}'),
        ({"type": "object", "properties": ["a"]}, 'Unrecognized schema: "a"'),
        ({"type": "object", "properties": 5}, 'Unrecognized schema: {"type":"object","properties":5}'),
        ({"type": "array", "items": "string"}, 'Unrecognized schema: "string"'),
        ({"anyOf": {"a": 1}}, 'Unrecognized schema: {"anyOf":{"a":1}}'),
        ({"enum": "ab"}, 'Unrecognized schema: {"enum":"ab"}'),
        ({"$ref": "https://example.org/a.json"}, "Unsupported ref: https://example.org/a.json"),
        ({"$ref": "#name"}, "Unsupported ref: #name"),
        ({"$ref": 5}, "Unsupported ref: 5"),
        ({"$ref": "#/$defs/gone"}, "Error resolving ref #/$defs/gone: $defs not found"),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, 'Unrecognized schema: {"$ref":"#/$defs/A"}'),
    ],
)
def test_an_invalid_schema_is_refused_in_the_words_of_ollamas_runner(schema: Any, text: str) -> None:
    assert refusal(schema) == text


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 5, "maximum": 3},
        {"type": "number", "exclusiveMinimum": 1, "maximum": 1},
        {"type": "string", "minLength": 3, "maxLength": 1},
        {"type": "array", "items": False, "minItems": 1},
        {"enum": []},
        {"allOf": [STRING, NULL]},
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"not": {}}}, "required": ["a"]},
    ],
)
def test_a_schema_that_no_value_satisfies_is_refused(schema: Any) -> None:
    assert refusal(schema).startswith("no value satisfies the schema; ")


def test_an_empty_schema_is_an_object() -> None:
    assert translated({}) == {"type": "object"} | COMPACT


def nested(levels: int) -> Any:
    schema: Any = STRING
    for _ in range(levels):
        schema = {"type": "object", "properties": {"x": {"anyOf": [schema, NULL]}}}
    return schema


def depth(value: Any) -> int:
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if members is None else 1 + max(map(depth, members), default=0)


def test_deep_schemas_are_split_so_that_vllm_accepts_them() -> None:
    result = translated(nested(MAX_DEPTH // 2 - 2))
    assert depth(result) < 64
    assert translated(result) == result


def test_schemas_beyond_the_bounds_are_refused() -> None:
    assert refusal(nested(MAX_DEPTH)).startswith("the schema is too large: at most 80 levels")
    assert refusal({"anyOf": [STRING] * 30_000}).startswith("the schema is too large: at most 20000 parts")
    wide = {"anyOf": [{"required": [str(number)]} for number in range(20)]}
    assert "combinations" in refusal({"allOf": [wide, wide]})


def test_references_that_multiply_do_not_multiply_the_result() -> None:
    definitions: dict[str, Any] = {"d0": STRING}
    for number in range(1, 20):
        pair = {"$ref": f"#/$defs/d{number - 1}"}
        definitions[f"d{number}"] = {"properties": {"a": pair, "b": pair}}
    result = translated({"$ref": "#/$defs/d19", "$defs": definitions})
    assert len(result["$defs"]) == 20


@pytest.mark.rule(221)
def test_integers_without_bounds_have_at_most_16_digits() -> None:
    assert turned({"type": "integer"}) == INTEGER
    assert turned({"type": "integer", "minimum": 5}) == INTEGER | {"minimum": 5}
    assert turned({"type": "integer", "maximum": 5}) == INTEGER | {"maximum": 5}
