"""Prompts of megabytes, which are mostly images, and outlines of their beginning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

LARGE = 1024 * 1024
"""Characters, which take half a millisecond to hash."""
TEXT_LENGTH = 1024
"""Characters of a text in an outline."""
END_LENGTH = 64
"""Characters of an image in an outline: the last ones differ most."""

_LINKS = ("image_url", "audio_url", "video_url")


def is_large(messages: Sequence[Any]) -> bool:
    total = 0
    for message in messages:
        content = message.content
        if isinstance(content, str):
            total += len(content)
            for image in getattr(message, "images", None) or ():
                total += len(image)
        elif content:
            total += sum(map(len, _texts(message))) + sum(map(len, _media(message)))
    return total > LARGE


def outline(messages: Sequence[Any]) -> list[Any]:
    """Return what tells apart the first message with a text or an image, the same in all turns of a conversation."""
    for message in messages:
        texts = [text[:TEXT_LENGTH] for text in _texts(message)]
        media = [(len(data), data[-END_LENGTH:]) for data in _media(message)]
        if message.role.lower() == "user" and (texts or media):
            return [texts, media]
    return []


def _texts(message: Any) -> Iterator[str]:
    content = message.content
    if isinstance(content, str):
        yield content
        return
    for part in content or ():
        for name in ("text", "content"):
            text = getattr(part, name, None)
            if isinstance(text, str):
                yield text


def _media(message: Any) -> Iterator[str]:
    yield from getattr(message, "images", None) or ()
    if isinstance(message.content, str):
        return
    for part in message.content or ():
        for name in _LINKS:
            link = getattr(part, name, None)
            if link is not None:
                yield link if isinstance(link, str) else link.url
        data = getattr(getattr(part, "source", None) or getattr(part, "input_audio", None), "data", None)
        if isinstance(data, str):
            yield data
