"""Messages of /v1/chat/completions: checks, and the forms that vLLM takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.media import check_base64
from vllama_pool.router.protocol.vllm import api
from vllama_pool.workers.registry.record import ModelInfo

NO_MESSAGES = "[] is too short - 'messages'"
"""The text of both OpenAI and Ollama (R114)."""
NO_URLS = "{kind} URLs are not currently supported, please use base64 encoded data instead"
"""Ollama's text (R114)."""
NO_FILES = "file inputs are not currently supported"
"""Ollama's text (R118)."""
_LINKED = {"image_url": "image", "audio_url": "audio", "video_url": "video"}
_CAPABILITIES = {"image_url": "vision", "video_url": "vision", "input_audio": "audio", "audio_url": "audio"}
_KINDS = ("text", "refusal", "input_audio", *_LINKED)


class ImageLink(msgspec.Struct, frozen=True):
    url: str
    detail: str | None = None


class Part(msgspec.Struct, frozen=True):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageLink | str | None = None
    audio_url: ImageLink | str | None = None
    video_url: ImageLink | str | None = None
    input_audio: api.VllmInputAudio | None = None


class Message(msgspec.Struct, frozen=True):
    role: str
    content: str | list[Part] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[api.VllmToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None


def parts_of(messages: Sequence[Message]) -> Iterator[tuple[str, Part]]:
    """Yield the path and the part."""
    for position, message in enumerate(messages):
        if message.content is not None and not isinstance(message.content, str):
            for index, part in enumerate(message.content):
                yield f"messages[{position}].content[{index}]", part


def check(messages: Sequence[Message]) -> None:
    """Raises BadRequest."""
    if not messages:
        raise BadRequest(NO_MESSAGES, param="messages")
    called: set[str] = set()
    for position, message in enumerate(messages):
        if message.tool_calls:
            called.update(call.id for call in message.tool_calls)
        elif message.role == "tool":
            _check_result(message, f"messages[{position}]", called)
        elif message.content is None and not (message.role == "assistant" and message.reasoning_content):
            raise BadRequest("invalid message content type: <nil>", param=f"messages[{position}].content")
    for path, part in parts_of(messages):
        check_part(path, part)


def _check_result(message: Message, path: str, called: set[str]) -> None:
    if message.tool_call_id is None:
        raise BadRequest(f"Missing required parameter: '{path}.tool_call_id'.", param=f"{path}.tool_call_id")
    if message.tool_call_id not in called:
        raise BadRequest(
            f"Invalid parameter: the 'tool' message answers the call '{message.tool_call_id}', which no preceding "
            "message has in its 'tool_calls'.",
            param=f"{path}.tool_call_id",
        )


def check_part(path: str, part: Part) -> None:
    """Raises BadRequest."""
    if part.type == "file":
        raise BadRequest(NO_FILES, param=path)
    if part.type not in _KINDS:
        kinds = ", ".join(f"'{kind}'" for kind in _KINDS)
        raise BadRequest(f"Invalid value: '{part.type}'. Supported values are: {kinds}.", param=f"{path}.type")
    if part.type in ("text", "refusal"):
        value: object = part.text if part.text is not None else part.refusal
    else:
        value = getattr(part, part.type)
    if value is None:
        raise BadRequest(f"Missing required parameter: '{path}.{part.type}'.", param=f"{path}.{part.type}")
    if part.type == "input_audio" and part.input_audio is not None:
        check_base64(part.input_audio.data)
    elif part.type in _LINKED:
        check_data_uri(_url(value), _LINKED[part.type])


def check_data_uri(uri: str, kind: str) -> None:
    """Accept base64 data only: a worker must not fetch addresses that clients name. Raises BadRequest."""
    scheme, comma, data = uri.partition(",")
    if not comma or not scheme.lower().startswith("data:") or not scheme.lower().endswith(";base64"):
        raise BadRequest(NO_URLS.format(kind=kind))
    check_base64(data)


def _url(link: object) -> str:
    return link.url if isinstance(link, ImageLink) else str(link)


def required_capabilities(messages: Sequence[Message]) -> list[str]:
    needed = {_CAPABILITIES[part.type] for _, part in parts_of(messages) if part.type in _CAPABILITIES}
    return sorted(needed, reverse=True)


def translate(messages: Sequence[Message], info: ModelInfo) -> list[api.VllmMessage]:
    knows_developer = "developer" in info.template or info.architecture.startswith("gpt_oss")
    return [_translated(message, knows_developer) for message in messages]


def _translated(message: Message, knows_developer: bool) -> api.VllmMessage:
    """Most templates drop a developer message, which is a system message by another name."""
    content = message.content
    return api.VllmMessage(
        "system" if message.role == "developer" and not knows_developer else message.role,
        content if content is None or isinstance(content, str) else [translate_part(part) for part in content],
        message.reasoning or message.reasoning_content or None,
        message.tool_calls or None,
        message.tool_call_id,
        message.name,
    )


def translate_part(part: Part) -> api.VllmPart:
    match part.type:
        case "text" | "refusal":
            return api.VllmPart("text", text=part.text if part.text is not None else part.refusal)
        case "input_audio":
            return api.VllmPart(part.type, input_audio=part.input_audio)
    return api.VllmPart(
        part.type,
        image_url=_link(part.image_url),
        audio_url=_link(part.audio_url),
        video_url=_link(part.video_url),
    )


def _link(link: ImageLink | str | None) -> api.VllmImageUrl | None:
    if link is None:
        return None
    return api.VllmImageUrl(link) if isinstance(link, str) else api.VllmImageUrl(link.url, link.detail)
