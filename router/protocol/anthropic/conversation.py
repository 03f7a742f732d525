"""A conversation as the chat that vLLM makes of it, and back, for templates that refuse it (`strict_templates`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from vllama_pool.router.protocol.anthropic.blocks import Block, Image, ImageSource, Text, Thinking, ToolResult, ToolUse
from vllama_pool.router.protocol.anthropic.messages import ROLES
from vllama_pool.router.protocol.anthropic.requests import Message
from vllama_pool.router.protocol.vllm import api

_BILLING = "x-anthropic-billing-header"
"""Begin of a system text that vLLM leaves out, because it differs with each request."""


def as_chat(system: str | list[Block] | None, messages: Sequence[Message]) -> list[api.VllmMessage]:
    text = _system_text(system or "")
    chat = [api.VllmMessage("system", text)] if text else []
    for message in messages:
        chat += _turns(message)
    return chat


def _system_text(content: str | list[Block]) -> str:
    texts = [content] if isinstance(content, str) else [block.text for block in content if isinstance(block, Text)]
    return "".join(text for text in texts if not text.startswith(_BILLING))


def _turns(message: Message) -> Iterator[api.VllmMessage]:
    if message.role == "system":
        yield api.VllmMessage("system", _system_text(message.content))
        return
    if isinstance(message.content, str):
        yield api.VllmMessage(message.role, message.content)
        return
    others = []
    for block in message.content:
        if isinstance(block, ToolResult):
            yield from _result(block)
        else:
            others.append(block)
    if others:
        yield _turn(message.role, others)


def _result(block: ToolResult) -> Iterator[api.VllmMessage]:
    """Templates take no images in a tool result, so they follow as the user's."""
    content = block.content or ""
    blocks: list[Block] = [Text(content)] if isinstance(content, str) else content
    text = "\n".join(each.text for each in blocks if isinstance(each, Text))
    yield api.VllmMessage("tool", text, tool_call_id=block.tool_use_id)
    if images := [each for each in blocks if isinstance(each, Image)]:
        yield _turn("user", images)


def _turn(role: str, blocks: Sequence[Block]) -> api.VllmMessage:
    parts = [_part(block) for block in blocks if isinstance(block, Text | Image)]
    calls = [_call(block) for block in blocks if isinstance(block, ToolUse)]
    content = parts[0].text if len(parts) == 1 and parts[0].type == "text" else parts
    return api.VllmMessage(
        role,
        content or (None if calls else ""),
        "".join(block.thinking for block in blocks if isinstance(block, Thinking)) or None,
        calls or None,
    )


def _part(block: Text | Image) -> api.VllmPart:
    if isinstance(block, Text):
        return api.VllmPart("text", text=block.text)
    uri = f"data:{block.source.media_type};base64,{block.source.data}"
    return api.VllmPart("image_url", image_url=api.VllmImageUrl(uri))


def _call(block: ToolUse) -> api.VllmToolCall:
    return api.VllmToolCall(block.id, api.VllmFunctionCall(block.name, json.dumps(block.input)))


def from_chat(chat: Sequence[api.VllmMessage]) -> list[Message]:
    return [_message(message) for message in chat]


def _message(message: api.VllmMessage) -> Message:
    if message.role == "tool":
        return Message("user", [ToolResult(message.tool_call_id or "", _blocks(message.content))])
    role = message.role if message.role in ROLES else "system"
    if isinstance(message.content, str) and not message.reasoning and not message.tool_calls:
        return Message(role, message.content)
    thinking: list[Block] = [Thinking(message.reasoning)] if message.reasoning else []
    calls = [
        ToolUse(call.id, call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()
    ]
    return Message(role, [*thinking, *_blocks(message.content), *calls])


def _blocks(content: str | list[api.VllmPart] | None) -> list[Block]:
    if isinstance(content, str):
        return [Text(content)] if content else []
    return [_block(part) for part in content or ()]


def _block(part: api.VllmPart) -> Block:
    if part.image_url is None:
        return Text(part.text or "")
    head, _, data = part.image_url.url.partition(",")
    return Image(ImageSource(head.removeprefix("data:").removesuffix(";base64"), data))
