"""Bounds on the tokens of a request, by the lengths of its texts. Only vLLM's tokenizer can count them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

MOST_BYTES = 16
"""Per token, over a whole prompt: prose has four to five, and indented code up to ten."""
LEAST_BYTES = 2
"""Per token: digits and random letters have one to three, Chinese has about three."""
MESSAGE_TOKENS = 16
"""Of the template, per message."""

_TEXTS = ("text", "refusal", "thinking")
_MEDIA = ("source", "image_url", "audio_url", "video_url", "input_audio")
"""Fields of a message's parts."""


class PromptSize(NamedTuple):
    at_least: int = 0
    """Tokens; 0 if unknown."""
    at_most: int = 0
    """Tokens with the answer, hardly more; 0 if unknown, as for images."""


def prompt_size(request: Any) -> PromptSize:
    """Return the bounds for a decoded request, whose texts are found by the names of its fields."""
    texts = _Texts()
    texts.add(getattr(request, "system", None))
    texts.add(_longest(getattr(request, "prompt", None)))
    for message in getattr(request, "messages", None) or getattr(request, "conversation", None) or ():
        texts.add_message(message)
    tools = getattr(request, "tools", None)
    schemas = len(msgspec.json.encode(tools)) if tools else 0
    if not texts.size:
        return PromptSize()
    tokens = len(getattr(request, "context", None) or ()) + texts.tokens
    at_most = tokens + (texts.size + schemas) // LEAST_BYTES + MESSAGE_TOKENS * texts.count + _answer(request)
    return PromptSize(tokens + texts.size // MOST_BYTES, 0 if texts.has_media else at_most)


class _Texts:
    """Counts the bytes of texts."""

    __slots__ = ("count", "has_media", "size", "tokens")

    def __init__(self) -> None:
        self.size = 0
        self.count = 1
        self.tokens = 0
        self.has_media = False

    def add(self, content: Any) -> None:
        """Add a text, a list of texts, of tokens, or of parts."""
        if isinstance(content, str):
            self.size += _bytes(content)
        elif isinstance(content, Iterable):
            for part in content:
                self._add_part(part)

    def add_message(self, message: Any) -> None:
        self.count += 1
        self.add(message.content)
        if getattr(message, "images", None):
            self.has_media = True
        calls = getattr(message, "tool_calls", None)
        if calls:
            self.size += len(msgspec.json.encode(calls))

    def _add_part(self, part: Any) -> None:
        if isinstance(part, int):
            self.tokens += 1
            self.size += 1
            return
        if isinstance(part, str):
            self.size += _bytes(part)
            return
        for name in _TEXTS:
            text = getattr(part, name, None)
            if isinstance(text, str):
                self.size += _bytes(text)
        self.add(getattr(part, "content", None))  # of a tool's result
        arguments = getattr(part, "input", None)
        if arguments:
            self.size += len(msgspec.json.encode(arguments))
        self.has_media = self.has_media or any(getattr(part, name, None) for name in _MEDIA)


def _longest(prompt: Any) -> Any:
    """Return the longest of several prompts: each has a context of its own."""
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        return max(prompt, key=len)
    return prompt


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _answer(request: Any) -> int:
    """Return the longest answer that the request asks for; 0 if it does not say."""
    fields = getattr(request, "fields", request)
    options = getattr(fields, "options", None)
    asked = (
        getattr(fields, "max_completion_tokens", None),
        getattr(fields, "max_tokens", None),
        getattr(fields, "max_output_tokens", None),
        options.get("num_predict") if isinstance(options, dict) else None,
    )
    return max([0, *(tokens for tokens in asked if isinstance(tokens, int))])
