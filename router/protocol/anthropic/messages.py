"""Messages and system texts of /v1/messages: checks, and the forms that vLLM takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.anthropic.blocks import (
    SKIPPED,
    Block,
    Image,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
)
from vllama_pool.router.protocol.anthropic.requests import Message

NO_MESSAGES = "messages is required"
"""Ollama's text (R120)."""
EMPTY = "messages: at least one message must have content"
ROLES = ("user", "assistant", "system")
_PLACES: dict[type[Block], str] = {ToolUse: "assistant", ToolResult: "user"}
"""The role of the messages that may hold a block."""


def read(messages: Sequence[Message] | None) -> list[Message]:
    """Check messages, and leave out what no model takes. Raises BadRequest."""
    if not messages:
        raise BadRequest(NO_MESSAGES)
    forwarded = [kept for position, message in enumerate(messages) if (kept := _read(message, position))]
    if not forwarded:
        raise BadRequest(EMPTY)
    _check_results(forwarded)
    return forwarded


def read_system(system: str | list[Block] | None) -> str | list[Block] | None:
    """Leave out what is not text."""
    if isinstance(system, list):
        return [block for block in system if isinstance(block, Text)] or None
    return system or None


def _read(message: Message, position: int) -> Message | None:
    """Return the message without blocks that are skipped; None if nothing is left."""
    role, content = message.role.lower(), message.content
    if role not in ROLES:
        roles = ", ".join(f"'{each}'" for each in ROLES)
        raise BadRequest(f"messages[{position}].role: '{message.role}' is not one of {roles}")
    if isinstance(content, str):
        return Message(role, content)
    for index, block in enumerate(content):
        place = _PLACES.get(type(block), role)
        if place != role:
            name = "tool_use" if isinstance(block, ToolUse) else "tool_result"
            raise BadRequest(
                f"messages[{position}].content[{index}]: a {name} block belongs in a message of the {place}"
            )
    kept: list[Block] = [block for block in content if _is_kept(block, role)]
    return Message(role, kept) if kept else None


def _is_kept(block: Block, role: str) -> bool:
    if role == "system":
        return isinstance(block, Text)
    return block is not SKIPPED and (role == "assistant" or not isinstance(block, Thinking))


def _check_results(messages: Sequence[Message]) -> None:
    called: set[str] = set()
    for block in blocks_of(messages):
        if isinstance(block, ToolUse):
            called.add(block.id)
        elif isinstance(block, ToolResult) and block.tool_use_id not in called:
            raise BadRequest(
                f"the tool_result block for '{block.tool_use_id}' has no tool_use block with this id in an earlier "
                "message"
            )


def blocks_of(messages: Sequence[Message]) -> Iterator[Block]:
    for message in messages:
        if isinstance(message.content, list):
            yield from message.content


def required_capabilities(messages: Sequence[Message]) -> list[str]:
    return ["vision"] if any(map(_has_image, blocks_of(messages))) else []


def uses_tools(messages: Sequence[Message]) -> bool:
    return any(isinstance(block, ToolUse | ToolResult) for block in blocks_of(messages))


def _has_image(block: Block) -> bool:
    if isinstance(block, ToolResult) and isinstance(block.content, list):
        return any(isinstance(each, Image) for each in block.content)
    return isinstance(block, Image)
