"""Translation of Ollama's messages into vLLM's (R071-R078)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.protocol.media import sniff
from vllama_pool.router.protocol.ollama.requests import ChatMessage, default_messages
from vllama_pool.router.protocol.ollama.tool_call_ids import ToolCallIds, match_results
from vllama_pool.router.protocol.vllm import api
from vllama_pool.workers.registry.record import ModelInfo


def with_defaults(messages: Sequence[ChatMessage], defaults: Defaults) -> Sequence[ChatMessage]:
    """Put the model's system text and messages first. A leading system message replaces the model's (R085)."""
    if not (defaults.system or defaults.messages):
        return messages
    if messages and messages[0].role.lower() == "system":
        return [messages[0], *default_messages(defaults.messages), *messages[1:]]
    system = [ChatMessage("system", defaults.system)] if defaults.system else []
    return [*system, *default_messages(defaults.messages), *messages]


def translated_defaults(defaults: Defaults, info: ModelInfo) -> list[api.VllmMessage]:
    """Translate a virtual model's messages."""
    return translate(default_messages(defaults.messages), info.template)


def translate(messages: Sequence[ChatMessage], template: str = "") -> list[api.VllmMessage]:
    """`template`: the model's, "" if unknown."""
    result = []
    for message in messages:
        role = message.role
        plain = role == "user" or role == "assistant" or role == "system"
        if not plain or message.images or message.tool_calls:
            return _for_template(_translate_all(messages), template)
        result.append(api.VllmMessage(role, message.content or "", message.thinking or None))
    return result


def _translate_all(messages: Sequence[ChatMessage]) -> list[api.VllmMessage]:
    ids: ToolCallIds | None = None
    if any(message.tool_calls or message.role.lower() == "tool" for message in messages):
        ids = match_results(messages)
    return [_translated(message, position, ids) for position, message in enumerate(messages)]


def _for_template(messages: list[api.VllmMessage], template: str) -> list[api.VllmMessage]:
    """Turn a developer message into a system message if the template would drop it."""
    if messages and messages[0].role == "developer" and template and "developer" not in template:
        return [msgspec.structs.replace(messages[0], role="system"), *messages[1:]]
    return messages


def _translated(message: ChatMessage, position: int, ids: ToolCallIds | None) -> api.VllmMessage:
    role, text = message.role.lower(), message.content or ""
    return api.VllmMessage(
        role,
        parts(text, message.images) if message.images else text,
        message.thinking or None,
        _calls(message, ids.calls.get(position, ())) if ids else None,
        ids.results.get(position) if ids else None,
        (message.tool_name or None) if role == "tool" else None,
    )


def _calls(message: ChatMessage, ids: Sequence[str]) -> list[api.VllmToolCall] | None:
    """None without calls. Those of a tool result have no ids, and are left out."""
    return [
        api.VllmToolCall(call_id, api.VllmFunctionCall(call.function.name, bytes(call.function.arguments).decode()))
        for call_id, call in zip(ids, message.tool_calls or (), strict=False)
    ] or None


def parts(text: str, images: Sequence[str]) -> list[api.VllmPart]:
    result = [_media(image) for image in images]
    if text:
        result.append(api.VllmPart("text", text=text))
    return result


def _media(data: str) -> api.VllmPart:
    data = data.replace("\n", "").replace("\r", "")
    kind = sniff(data)
    if kind.startswith("audio/"):
        return api.VllmPart("input_audio", input_audio=api.VllmInputAudio(data, kind.removeprefix("audio/")))
    return api.VllmPart("image_url", image_url=api.VllmImageUrl(f"data:{kind};base64,{data}"))
