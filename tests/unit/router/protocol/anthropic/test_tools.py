from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.anthropic import tools
from vllama_pool.router.protocol.anthropic.requests import Tool, ToolChoice

CUSTOM = {"name": "f", "input_schema": {"type": "object"}}
BUILT_IN = [
    {"type": "web_search_20250305", "name": "web_search", "max_uses": 5},
    {"type": "web_fetch_20250910", "name": "web_fetch"},
    {"type": "computer_20250124", "name": "computer", "display_width_px": 1, "display_height_px": 1},
    {"type": "bash_20250124", "name": "bash"},
    {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
    {"type": "code_execution_20250825", "name": "code_execution"},
    {"type": "memory_20250818", "name": "memory"},
    {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"},
    {"type": "mcp_toolset", "mcp_server_name": "x"},
]


def read(given: list[dict[str, Any]] | None, choice: dict[str, Any] | None = None) -> Any:
    read_choice = None if choice is None else msgspec.convert(choice, ToolChoice)
    decoded = msgspec.json.decode(json.dumps(given), type=list[Tool] | None)
    return msgspec.json.decode(msgspec.json.encode(tools.read(decoded, read_choice)))


def refusal(given: list[dict[str, Any]] | None, choice: dict[str, Any] | None = None) -> str:
    with pytest.raises(BadRequest) as refused:
        read(given, choice)
    return refused.value.text


def test_a_custom_tool_is_forwarded_without_its_type() -> None:
    strict = {**CUSTOM, "description": "d", "strict": True}
    assert read([{**strict, "type": "custom"}, CUSTOM]) == [[strict, CUSTOM], None]


@pytest.mark.rule(125)
def test_built_in_tools_are_dropped() -> None:
    assert read([*BUILT_IN, CUSTOM]) == [[CUSTOM], None]


@pytest.mark.rule(125)
@pytest.mark.parametrize("choice", ["auto", "any", "none", "tool"])
@pytest.mark.parametrize("tool", BUILT_IN[:2])
def test_no_choice_is_left_among_built_in_tools_alone(tool: dict[str, Any], choice: str) -> None:
    assert read([tool], {"type": choice, "name": tool["name"]}) == [None, None]


def test_the_choice_of_a_built_in_tool_becomes_a_free_one() -> None:
    choice = {"type": "tool", "name": "bash", "disable_parallel_tool_use": True}
    expected = {"type": "auto", "disable_parallel_tool_use": True}
    assert read([*BUILT_IN, CUSTOM], choice) == [[CUSTOM], expected]


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "auto"},
        {"type": "any", "disable_parallel_tool_use": True},
        {"type": "none"},
        {"type": "tool", "name": "f"},
    ],
)
def test_a_choice_among_custom_tools_is_forwarded(choice: dict[str, Any]) -> None:
    assert read([CUSTOM], choice) == [[CUSTOM], choice]


@pytest.mark.parametrize("given", [None, []])
def test_a_choice_without_tools_is_dropped_unless_it_demands_one(given: list[dict[str, Any]] | None) -> None:
    assert read(given) == read(given, {"type": "auto"}) == read(given, {"type": "none"}) == [None, None]
    for choice in ({"type": "any"}, {"type": "tool", "name": "f"}):
        assert refusal(given, choice) == "tool_choice: may only be specified while providing tools"


@pytest.mark.parametrize(
    ("tool", "text"),
    [
        ({"input_schema": {}}, "tools[1].name is required"),
        ({"name": "", "input_schema": {}}, "tools[1].name is required"),
        ({"name": "g"}, "tools[1].input_schema is required"),
        ({"name": "g", "input_schema": None, "type": "custom"}, "tools[1].input_schema is required"),
    ],
)
def test_a_custom_tool_needs_a_name_and_a_schema(tool: dict[str, Any], text: str) -> None:
    assert refusal([CUSTOM, tool]) == text


def test_an_empty_schema_is_one() -> None:
    assert read([{**CUSTOM, "input_schema": {}}]) == [[{**CUSTOM, "input_schema": {}}], None]


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"type": "required"}, "tool_choice.type: 'required' is not one of 'auto', 'any', 'tool', 'none'"),
        ({}, "tool_choice.type: '' is not one of 'auto', 'any', 'tool', 'none'"),
        ({"type": "tool"}, "tool_choice.name is required when its type is 'tool'"),
        ({"type": "tool", "name": "g"}, "tool_choice: tool 'g' not found in provided tools"),
    ],
)
def test_an_invalid_choice_is_refused(choice: dict[str, Any], text: str) -> None:
    assert refusal([CUSTOM], choice) == text
