from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.router.protocol.ollama import tools
from vllama_pool.router.protocol.ollama.requests import decode_chat
from vllama_pool.router.protocol.vllm import api

EMPTY = {"type": "object", "properties": {}}


def sent(*declared: Any) -> Any:
    """Return the tools that vLLM gets."""
    request = decode_chat(json.dumps({"model": "m", "tools": declared}).encode())
    return json.loads(api.encode(tools.translate(request.tools)))


def schema_sent(schema: Any) -> Any:
    [tool] = sent({"function": {"name": "f", "parameters": schema}})
    return tool["function"]["parameters"]


@pytest.mark.rule(79)
def test_a_tool_is_passed_on_unchanged() -> None:
    schema = {
        "type": "object",
        "$defs": {"a": {"type": "integer", "maximum": 3}},
        "properties": {
            "city": {"type": ["string", "null"], "minLength": 1, "default": None},
            "when": {"anyOf": [{"$ref": "#/$defs/a"}, {"enum": [1, None, "x", {"y": None}]}], "examples": [None]},
            "null": {"type": "array", "items": {"const": None}},
        },
        "additionalProperties": False,
        "oneOf": [{"required": ["city"]}],
    }
    tool = {"function": {"name": "f", "description": "d", "parameters": schema}, "type": "function"}
    assert json.dumps(sent(tool)) == json.dumps([tool])


@pytest.mark.rule(79)
@pytest.mark.parametrize("declared", [[], None])
def test_no_tools_are_omitted(declared: Any) -> None:
    request = decode_chat(json.dumps({"model": "m", "tools": declared}).encode())
    assert tools.translate(request.tools) is None


@pytest.mark.rule(79)
@pytest.mark.parametrize(
    "tool",
    [
        {"type": "web_search"},
        {"type": "web_search", "function": None},
        {"type": "function", "name": "flat", "parameters": {}},
        {"function": {}},
        {"function": {"name": None, "parameters": EMPTY}},
        {"function": {"name": "", "description": "x"}},
        {},
        None,
    ],
)
def test_a_tool_without_a_name_is_accepted_and_not_sent(tool: Any) -> None:
    good = {"function": {"name": "f", "parameters": EMPTY}, "type": "function"}
    assert sent(tool) is None
    assert sent(tool, good, tool) == [good]


@pytest.mark.rule(79)
@pytest.mark.parametrize("function", [{}, {"parameters": None}, {"description": None}])
def test_a_tool_without_parameters_takes_none(function: dict[str, Any]) -> None:
    """Chat templates read `properties`."""
    assert sent({"function": {"name": "f", **function}}) == [
        {"function": {"name": "f", "parameters": EMPTY}, "type": "function"}
    ]


@pytest.mark.rule(79)
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"type": None, "properties": None, "required": None, "$defs": None, "items": None}, {}),
        ({"type": "object", "properties": {"a": None}}, {"type": "object", "properties": {"a": {}}}),
        ({"properties": {"a": {"type": None, "enum": None, "anyOf": None}}}, {"properties": {"a": {"enum": None}}}),
        ({"anyOf": [{"items": {"description": None}}]}, {"anyOf": [{"items": {}}]}),
    ],
)
def test_a_null_in_a_schema_is_an_absent_key(given: Any, expected: Any) -> None:
    assert schema_sent(given) == expected


SCHEMA = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "properties", "items", "enum", "default", "anyOf", "$defs", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.rule(79)
@given(st.dictionaries(st.text(max_size=3) | st.sampled_from(["properties", "type"]), SCHEMA, max_size=4))
def test_any_schema_is_sent_and_one_without_nulls_is_unchanged(schema: dict[str, Any]) -> None:
    result = schema_sent(schema)
    if "null" not in json.dumps(schema):
        assert json.dumps(result) == json.dumps(schema)
