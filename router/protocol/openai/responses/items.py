"""Items of /v1/responses: what clients send as `input`, and what vLLM takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from vllama_pool.router.protocol.openai.responses.tools import Tool
from vllama_pool.router.protocol.vllm import api


class Content(msgspec.Struct, frozen=True):
    type: str = ""
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None


class Item(msgspec.Struct, frozen=True):
    type: str | None = None
    role: str | None = None
    content: str | list[Content] | None = None
    status: str | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: Any = None
    input: str | None = None
    output: msgspec.Raw = msgspec.Raw()
    summary: list[Content] | None = None
    encrypted_content: str | None = None
    tools: list[Tool] | None = None
    action: msgspec.Raw = msgspec.Raw()
    operation: msgspec.Raw = msgspec.Raw()


class SentContent(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str
    text: str | None = None
    image_url: str | None = None
    detail: str | None = None


class SentItem(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str
    role: str | None = None
    content: str | list[SentContent] | None = None
    status: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[SentContent] | None = None
    summary: list[SentContent] | None = None


def from_messages(messages: Iterable[api.VllmMessage], unfinished: str | None = None) -> list[SentItem]:
    """Translate a conversation. `unfinished`: the status of a last message that vLLM is to continue."""
    items = [item for message in messages for item in _items(message)]
    if unfinished and items and items[-1].role == "assistant":
        items[-1] = msgspec.structs.replace(items[-1], status=unfinished)
    return items


def _items(message: api.VllmMessage) -> list[SentItem]:
    if message.role == "assistant":
        return _answer(message)
    content = _sent(message.content or "")
    if message.role == "tool":
        return [SentItem("function_call_output", call_id=message.tool_call_id, output=content)]
    return [SentItem("message", message.role, content)]


def _answer(message: api.VllmMessage) -> list[SentItem]:
    items = []
    if message.reasoning:
        thoughts = SentContent("reasoning_text", message.reasoning)
        items.append(SentItem("reasoning", content=[thoughts], summary=[]))
    if message.content is not None:  # vLLM reads the first part only
        items.append(SentItem("message", message.role, [SentContent("output_text", _text(message.content))]))
    for call in message.tool_calls or ():
        function = call.function
        items.append(
            SentItem("function_call", call_id=call.id, name=function.name, arguments=function.arguments),
        )
    return items


def _text(content: str | Sequence[api.VllmPart]) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content if part.text)


def _sent(content: str | Sequence[api.VllmPart]) -> str | list[SentContent]:
    return content if isinstance(content, str) else [_part(part) for part in content]


def _part(part: api.VllmPart) -> SentContent:
    image = part.image_url
    if image is None:
        return SentContent("input_text", part.text)
    return SentContent("input_image", image_url=image.url, detail=image.detail or "auto")
