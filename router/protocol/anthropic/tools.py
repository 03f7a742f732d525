"""Tools of /v1/messages, and the choice among them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.anthropic.requests import Tool, ToolChoice

_CHOICES = ("auto", "any", "tool", "none")
_CUSTOM = (None, "custom")


def read(tools: Sequence[Tool] | None, choice: ToolChoice | None) -> tuple[list[Tool] | None, ToolChoice | None]:
    """Check tools, and leave out the built-in ones, which nothing here runs (R125). Raises BadRequest."""
    if choice is not None:
        _check_choice(choice)
    if not tools:
        if choice is not None and choice.type in ("any", "tool"):
            raise BadRequest("tool_choice: may only be specified while providing tools")
        return None, None
    for position, tool in enumerate(tools):
        if tool.type in _CUSTOM:
            _check(tool, f"tools[{position}]")
    custom = [msgspec.structs.replace(tool, type=None) for tool in tools if tool.type in _CUSTOM]
    if not custom:
        return None, None
    return custom, _among(choice, {tool.name for tool in custom}, {tool.name for tool in tools})


def _check(tool: Tool, path: str) -> None:
    for name in ("name", "input_schema"):
        if getattr(tool, name) in (None, ""):
            raise BadRequest(f"{path}.{name} is required")


def _check_choice(choice: ToolChoice) -> None:
    if choice.type not in _CHOICES:
        choices = ", ".join(f"'{each}'" for each in _CHOICES)
        raise BadRequest(f"tool_choice.type: '{choice.type}' is not one of {choices}")
    if choice.type == "tool" and not choice.name:
        raise BadRequest("tool_choice.name is required when its type is 'tool'")


def _among(choice: ToolChoice | None, custom: set[str], offered: set[str]) -> ToolChoice | None:
    """Choose freely in place of a built-in tool."""
    if choice is None or choice.type != "tool" or choice.name in custom:
        return choice
    if choice.name not in offered:
        raise BadRequest(f"tool_choice: tool '{choice.name}' not found in provided tools")
    return ToolChoice("auto", disable_parallel_tool_use=choice.disable_parallel_tool_use)
