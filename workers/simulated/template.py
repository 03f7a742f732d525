"""The chat template: ChatML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vllama_pool.workers.simulated.errors import ApiError
from vllama_pool.workers.simulated.requests import AssistantMessage, Message, Tool

NO_THINKING = "<think>\n\n</think>\n\n"


def render(
    messages: Sequence[Message],
    tools: Sequence[Tool] | None,
    *,
    model: str,
    no_thinking: bool = False,
    add_generation_prompt: bool = True,
    continue_final: bool = False,
) -> str:
    """Raises ApiError for images and empty conversations.

    `continue_final` leaves the last message open.
    """
    if not messages:
        raise ApiError("Cannot apply chat template to an empty conversation. Provide at least one message.")
    parts = []
    if tools:
        listed = "\n".join(json.dumps(tool.model_dump(exclude_none=True)) for tool in tools)
        parts.append(f"<|im_start|>system\n# Tools\n{listed}<|im_end|>\n")
    for message in messages:
        parts.append(f"<|im_start|>{message.role}\n{_text(message, model)}<|im_end|>\n")
    if continue_final:
        parts[-1] = parts[-1].removesuffix("<|im_end|>\n")
    elif add_generation_prompt:
        parts.append("<|im_start|>assistant\n" + (NO_THINKING if no_thinking else ""))
    return "".join(parts)


def last_question(messages: Sequence[Message], model: str) -> str:
    """Return the last message, "" if it is not the user's."""
    return _text(messages[-1], model) if messages and messages[-1].role == "user" else ""


def _text(message: Message, model: str) -> str:
    text = _content(message.content, model)
    calls = message.tool_calls if isinstance(message, AssistantMessage) else None
    for call in calls or ():
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
