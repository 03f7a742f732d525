"""Thinking that comes as text, between <think> and </think>, taken apart from the answer.

vLLM's reasoning parsers do that for chats only; a prompt of token ids is a completion.
"""

from __future__ import annotations

from typing import Final

from vllama_pool.workers.registry.record import ModelInfo

OPEN: Final = "<think>"
CLOSE: Final = "</think>"


def are_tagged(info: ModelInfo) -> bool:
    """Whether a model thinks between these tags, by its chat template."""
    return "thinking" in info.capabilities and OPEN in info.template


def are_open(prompt_end: str) -> bool:
    """Whether a prompt's end has the model think already: many templates write the first tag themselves."""
    return prompt_end.rfind(OPEN) > prompt_end.rfind(CLOSE)


class ThinkTagSplitter:
    """Splits a text that comes in pieces. However it is cut, the sums of what comes out are the same.

    Thinking is only what comes before anything else. A piece that may be the beginning of a tag is held back.
    """

    __slots__ = ("_held", "_thinking", "_told")

    def __init__(self, *, begun: bool) -> None:
        """`begun`: the prompt has ended in the opening tag."""
        self._held = ""
        self._thinking = begun
        self._told = False  # past the thinking, or there was none

    def split(self, text: str) -> tuple[str, str]:
        """The next piece, as thinking and as content."""
        if self._told:
            return "", text
        self._held += text
        if not self._thinking and not self._begin():
            return ("", self._take(len(self._held))) if self._told else ("", "")
        end = self._held.find(CLOSE)
        if end < 0:
            return self._take(len(self._held) - _overlap(self._held)), ""
        thinking = self._take(end)
        self._told = True
        return thinking, self._take(len(self._held)).removeprefix(CLOSE)

    def rest(self) -> tuple[str, str]:
        """What was held back, at the text's end."""
        held = self._take(len(self._held))
        return (held, "") if self._thinking and not self._told else ("", held)

    def _begin(self) -> bool:
        """Look for the opening tag, with nothing but blanks in front of it. Whether the thinking has begun."""
        start = self._held.lstrip()
        if start.startswith(OPEN):
            self._held = start.removeprefix(OPEN)
            self._thinking = True
        elif not OPEN.startswith(start):
            self._told = True
        return self._thinking

    def _take(self, count: int) -> str:
        taken, self._held = self._held[:count], self._held[count:]
        return taken


def _overlap(text: str) -> int:
    """How much of the text's end may be the beginning of the closing tag."""
    return next((size for size in range(len(CLOSE) - 1, 0, -1) if text.endswith(CLOSE[:size])), 0)
