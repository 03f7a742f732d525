"""The chat template: ChatML, on request as strict as those that refuse some conversations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from vllama_pool.workers.simulated.errors import ApiError
from vllama_pool.workers.simulated.shapes import AssistantMessage, Message, OtherMessage, Tool, ToolCall

Strictness = Literal["", "system-first", "no-system"]
"""Roles in turn after an optional system message, or without one."""

NO_THINKING = "<think>\n\n</think>\n\n"

ROLES: dict[str, str] = {
    "no-system": "Conversation roles must alternate user/assistant/user/assistant/...",
    "system-first": (
        "After the optional system message, conversation roles must alternate user/assistant/user/assistant/..."
    ),
}
BOTH = (
    "continue_final_message and add_generation_prompt are not compatible. Use continue_final_message when you want "
    "the model to continue the final message, and add_generation_prompt when you want to add a header that will "
    "prompt it to start a new assistant message instead."
)


def render(
    messages: Sequence[Message],
    tools: Sequence[Tool] | None,
    *,
    model: str,
    strict: Strictness = "",
    no_thinking: bool = False,
    add_generation_prompt: bool = True,
    continue_final: bool = False,
) -> str:
    """Raises ApiError for images, empty conversations, and what a strict template refuses.

    `continue_final` leaves the last message open, without its tool calls.
    """
    if not messages:
        raise ApiError("Cannot apply chat template to an empty conversation. Provide at least one message.")
    if continue_final and add_generation_prompt:
        raise ApiError(BOTH)
    _check_roles(messages, strict)
    parts = []
    if tools:
        listed = "\n".join(json.dumps(tool.model_dump(exclude_none=True)) for tool in tools)
        parts.append(f"<|im_start|>system\n# Tools\n{listed}<|im_end|>\n")
    for message in messages:
        parts.append(f"<|im_start|>{message.role}\n{_text(message, model)}<|im_end|>\n")
    if continue_final:
        parts[-1] = f"<|im_start|>{messages[-1].role}\n{_content(messages[-1].content, model)}"
    elif add_generation_prompt:
        parts.append("<|im_start|>assistant\n" + (NO_THINKING if no_thinking else ""))
    return "".join(parts)


def refuses_later_systems(strict: Strictness) -> bool:
    """Return True if a system message may be the first message only, by vLLM's test of a template."""
    turns = [OtherMessage(role=role, content="t") for role in ("system", "user", "system", "user")]
    try:
        _check_roles(turns, strict)
    except ApiError:
        return True
    return False


def _check_roles(messages: Sequence[Message], strict: Strictness) -> None:
    if not strict:
        return
    has_system = messages[0].role == "system"
    if has_system and strict == "no-system":
        raise ApiError("System role not supported")
    turns = [message for message in messages[has_system:] if message.role != "tool" and not _calls(message)]
    if any((message.role == "user") != (place % 2 == 0) for place, message in enumerate(turns)):
        raise ApiError(ROLES[strict])


def _calls(message: Message) -> Sequence[ToolCall]:
    return (message.tool_calls if isinstance(message, AssistantMessage) else None) or ()


def last_question(messages: Sequence[Message], model: str) -> str:
    """Return the last message, "" if it is not the user's."""
    return _text(messages[-1], model) if messages and messages[-1].role == "user" else ""


def _text(message: Message, model: str) -> str:
    text = _content(message.content, model)
    for call in _calls(message):
        text += (
            f'\n<tool_call>\n{{"name": "{call.function.name}", "arguments": {call.function.arguments}}}\n</tool_call>'
        )
    return text


def _content(content: str | list[dict[str, Any]] | None, model: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for part in content:
        if part.get("type", "text") != "text":
            raise ApiError(f"{model} is not a multimodal model")
        texts.append(str(part.get("text", "")))
    return "\n".join(texts)
