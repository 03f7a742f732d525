from __future__ import annotations

from typing import Any

import msgspec
import pytest

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.openai.responses.tools import BUILT_IN, Tool, ToolChoice
from vllama_pool.router.protocol.openai.responses.tools import select as select_tools


def function(name: str = "f", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": {"type": "object"}, **fields}


SPACE = {"type": "namespace", "name": "n", "description": "d", "tools": [function("f"), function("g")]}
CUSTOM = {"type": "custom", "name": "c", "description": "d"}


def select(tools: list[dict[str, Any]] | None, choice: Any = None) -> dict[str, Any]:
    """Return what is sent to vLLM."""
    selected = select_tools([("tools", _decoded(tools or []))], msgspec.convert(choice, str | ToolChoice | None))
    result: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(selected))
    return result


def _decoded(tools: list[dict[str, Any]]) -> list[Tool]:
    return msgspec.json.decode(msgspec.json.encode(tools), type=list[Tool])


def names(selected: dict[str, Any]) -> list[str]:
    return [tool["name"] for tool in selected["sent"] or ()]


def test_functions_keep_what_vllm_reads() -> None:
    tool = function(strict=True, description="d", defer_loading=True, cache_control={"x": 1})
    assert select([tool])["sent"] == [function(strict=True, description="d")]


@pytest.mark.parametrize("fields", [{}, {"parameters": None}])
def test_a_function_needs_no_parameters(fields: dict[str, Any]) -> None:
    tool = {"type": "function", "name": "f"}
    given = {**tool, **fields}
    assert select([given, {**SPACE, "tools": [given]}])["sent"] == [tool, {**SPACE, "tools": [tool]}]


def test_functions_of_namespaces_stay_in_them() -> None:
    assert select([SPACE])["sent"] == [SPACE]


def test_custom_tools_leave_their_namespace() -> None:
    assert select([{**SPACE, "tools": [function("f"), CUSTOM, function("g")]}])["sent"] == [SPACE, CUSTOM]
    assert select([{**SPACE, "tools": [CUSTOM]}])["sent"] == [CUSTOM]


def test_a_namespace_without_a_description_gets_an_empty_one() -> None:
    del (tool := dict(SPACE))["description"]
    assert select([tool])["sent"] == [{**SPACE, "description": ""}]


def test_a_namespace_without_functions_is_dropped() -> None:
    assert select([{**SPACE, "tools": [{"type": "tool_search"}]}])["sent"] is None


def test_a_grammar_becomes_part_of_the_description() -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: x"}
    [sent] = select([{**CUSTOM, "format": grammar}])["sent"]
    assert sent == {**CUSTOM, "description": "d\n\nThe input follows this lark grammar:\nstart: x"}
    assert select([{**CUSTOM, "format": {"type": "text"}}])["sent"] == [CUSTOM]


@pytest.mark.parametrize("kind", sorted(BUILT_IN))
def test_built_in_tools_are_dropped(kind: str) -> None:
    assert names(select([{"type": kind, "vector_store_ids": ["x"]}, function()])) == ["f"]


@pytest.mark.parametrize("choice", [None, "none", "auto", "required", {"type": "web_search"}])
def test_without_remaining_tools_there_is_no_choice(choice: Any) -> None:
    assert select([{"type": "web_search"}], choice) == {"sent": None, "choice": None}


@pytest.mark.parametrize("choice", ["none", "auto", "required"])
def test_a_choice_is_sent(choice: str) -> None:
    assert select([function()], choice)["choice"] == choice


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ({"type": "function", "name": "f"}, "f"),
        ({"type": "function", "name": "g"}, "g"),
        ({"type": "function", "name": "n__g"}, "n__g"),
        ({"type": "function", "name": "g", "namespace": "n"}, "n__g"),
        ({"type": "custom", "name": "c"}, "c"),
    ],
)
def test_a_named_tool_is_chosen(choice: dict[str, str], sent: str) -> None:
    selected = select([function(), SPACE, CUSTOM], choice)
    assert selected["choice"] == {"type": choice["type"], "name": sent}
    assert names(selected) == ["f", "n", "c"]


def test_a_built_in_tool_cannot_be_chosen() -> None:
    assert select([function(), {"type": "mcp"}], {"type": "mcp", "server_label": "x"})["choice"] is None


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_only_allowed_tools_remain(mode: str) -> None:
    allowed = [{"type": "function", "name": "g"}, {"type": "custom", "name": "c"}, {"type": "web_search"}]
    selected = select([function(), SPACE, CUSTOM], {"type": "allowed_tools", "mode": mode, "tools": allowed})
    assert selected["choice"] == mode
    assert [names({"sent": selected["sent"]}), names({"sent": selected["sent"][0]["tools"]})] == [["n", "c"], ["g"]]


@pytest.mark.parametrize(
    ("tools", "choice", "text", "param"),
    [
        ([{"type": "robot"}], None, "Invalid value: 'robot'. Supported values are:", "tools[0].type"),
        ([{"name": "f"}], None, "Invalid value: ''.", "tools[0].type"),
        ([{"type": "function"}], None, "Missing required parameter: 'tools[0].name'.", "tools[0].name"),
        ([{**SPACE, "tools": [{"type": "x"}]}], None, "Invalid value: 'x'.", "tools[0].tools[0].type"),
        ([function(parameters="x")], None, "Invalid type for 'tools[0].parameters': expected an object.", None),
        ([function(parameters=[])], None, "Invalid type for 'tools[0].parameters': expected an object.", None),
        ([function()], "any", "Invalid value: 'any'. Supported values are: 'none', 'auto', 'required'.", "tool_choice"),
        ([function()], {"type": "function", "name": "g"}, "Tool choice 'g' not found", "tool_choice"),
        ([function()], {"type": "function"}, "Missing required parameter: 'tool_choice.name'.", "tool_choice.name"),
        ([function()], {"type": "x"}, "Invalid value: 'x'.", "tool_choice.type"),
        ([function()], {"type": "allowed_tools", "mode": "x"}, "Invalid value: 'x'.", "tool_choice.mode"),
        (None, "required", "'tool_choice' is only allowed when 'tools' are specified.", "tool_choice"),
        ([], {"type": "function", "name": "f"}, "'tool_choice' is only allowed", "tool_choice"),
    ],
)
def test_invalid_tools_are_refused(tools: Any, choice: Any, text: str, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        select(tools, choice)
    assert caught.value.text.startswith(text)
    assert caught.value.param == (param or "tools[0].parameters")
