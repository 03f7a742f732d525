"""Content blocks: the kinds that are forwarded, and how others are read (R122)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.media import check_base64, sniff

NO_SOURCES = "invalid image source type: {type}. Only base64 images are supported."
"""Ollama's text: a worker must not fetch addresses that clients name."""
NO_DOCUMENTS = "document source type '{type}' is not supported; send the document as text"


class Block:
    __slots__ = ()


class Text(msgspec.Struct, Block, frozen=True, tag_field="type", tag="text"):
    text: str


class ImageSource(msgspec.Struct, frozen=True, tag_field="type", tag="base64"):
    media_type: str
    data: str


class Image(msgspec.Struct, Block, frozen=True, tag_field="type", tag="image"):
    source: ImageSource


class Thinking(msgspec.Struct, Block, frozen=True, tag_field="type", tag="thinking"):
    thinking: str


class ToolUse(msgspec.Struct, Block, frozen=True, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


class ToolResult(msgspec.Struct, Block, frozen=True, omit_defaults=True, tag_field="type", tag="tool_result"):
    tool_use_id: str
    content: str | list[Block] | None = None
    is_error: bool | None = None


class Skipped(msgspec.Struct, Block, frozen=True):
    """A block that no model takes, such as a server tool's."""


SKIPPED = Skipped()


class _Kind(msgspec.Struct, frozen=True):
    type: str


class _Source(msgspec.Struct, frozen=True):
    """Of an image or a document."""

    type: str = ""
    data: str = ""
    content: str | list[Block] | None = None


class _HasSource(msgspec.Struct, frozen=True):
    source: _Source | None = None
    title: str | None = None
    context: str | None = None


class _Thinking(msgspec.Struct, frozen=True):
    thinking: str | None = None


class _ToolUse(msgspec.Struct, frozen=True):
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None


class _SearchResult(msgspec.Struct, frozen=True):
    source: str = ""
    title: str = ""
    content: list[Block] = []


def read_block(_: type, value: Any) -> Block:
    """Decode a block. A hook of msgspec, which adds the place to a ValueError. Raises BadRequest, too."""
    try:
        read = _READERS.get(msgspec.convert(value, _Kind).type)
        return SKIPPED if read is None else read(value)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def _text(value: Any) -> Block:
    return msgspec.convert(value, Text)


def _image(value: Any) -> Block:
    source = msgspec.convert(value, _HasSource, dec_hook=read_block).source
    if source is None:
        raise BadRequest("invalid image source")
    if source.type != "base64":
        raise BadRequest(NO_SOURCES.format(type=source.type))
    if not source.data:
        raise BadRequest("invalid image source: 'data' is empty")
    try:
        check_base64(source.data)
    except BadRequest as error:
        raise BadRequest(f"invalid base64 image data: {error.text}") from None
    return Image(ImageSource(sniff(source.data), source.data))


def _thinking(value: Any) -> Block:
    thinking = msgspec.convert(value, _Thinking).thinking
    return Thinking(thinking) if thinking else SKIPPED


def _tool_use(value: Any) -> Block:
    call = msgspec.convert(value, _ToolUse)
    for name in ("id", "name"):
        if not getattr(call, name):
            raise BadRequest(f"tool_use block missing required '{name}' field")
    return ToolUse(call.id or "", call.name or "", call.input or {})


def _tool_result(value: Any) -> Block:
    result = msgspec.convert(value, ToolResult, dec_hook=read_block)
    if isinstance(result.content, list):
        content: list[Block] = [block for block in result.content if isinstance(block, Text | Image)]
        return msgspec.structs.replace(result, content=content)
    return result


def _document(value: Any) -> Block:
    """A plain text, or blocks of text."""
    document = msgspec.convert(value, _HasSource, dec_hook=read_block)
    source = document.source or _Source()
    if source.type == "text":
        text = source.data
    elif source.type == "content":
        text = source.content if isinstance(source.content, str) else texts(source.content or ())
    else:
        raise BadRequest(NO_DOCUMENTS.format(type=source.type))
    return Text("\n".join(filter(None, (document.title, document.context, text))))


def _search_result(value: Any) -> Block:
    found = msgspec.convert(value, _SearchResult, dec_hook=read_block)
    return Text("\n".join(filter(None, (found.title, found.source, texts(found.content)))))


_READERS: Mapping[str, Callable[[Any], Block]] = {
    "text": _text,
    "image": _image,
    "thinking": _thinking,
    "tool_use": _tool_use,
    "tool_result": _tool_result,
    "document": _document,
    "search_result": _search_result,
}


def texts(blocks: Any) -> str:
    return "\n".join(block.text for block in blocks if isinstance(block, Text))
