"""Separation of thinking between <think> and </think> from the answer.

vLLM's parsers do this for chats only; a prompt of tokens is a completion.
"""

from __future__ import annotations

from typing import Final

from vllama_pool.workers.registry.record import ModelInfo

OPEN: Final = "<think>"
CLOSE: Final = "</think>"


def uses_tags(info: ModelInfo) -> bool:
    return "thinking" in info.capabilities and OPEN in info.template


def ends_inside(prompt_end: str) -> bool:
    """Many templates write the opening tag."""
    return prompt_end.rfind(OPEN) > prompt_end.rfind(CLOSE)


class ThinkTagSplitter:
    """Splits text in chunks. Text before the tag means no thinking."""

    __slots__ = ("_held", "_past", "_thinking")

    def __init__(self, *, begun: bool) -> None:
        self._held = ""
        self._thinking = begun
        self._past = False  # the thinking is over, or absent

    def split(self, text: str) -> tuple[str, str]:
        if self._past:
            return "", text
        self._held += text
        if not self._thinking and not self._begin():
            return ("", self._release(len(self._held))) if self._past else ("", "")
        end = self._held.find(CLOSE)
        if end < 0:
            return self._release(len(self._held) - _overlap(self._held)), ""
        thinking = self._release(end)
        self._past = True
        return thinking, self._release(len(self._held)).removeprefix(CLOSE)

    def rest(self) -> tuple[str, str]:
        held = self._release(len(self._held))
        return (held, "") if self._thinking and not self._past else ("", held)

    def _begin(self) -> bool:
        """Remove a leading opening tag. Return True if thinking has begun."""
        start = self._held.lstrip()
        if start.startswith(OPEN):
            self._held = start.removeprefix(OPEN)
            self._thinking = True
        elif not OPEN.startswith(start):
            self._past = True
        return self._thinking

    def _release(self, count: int) -> str:
        released, self._held = self._held[:count], self._held[count:]
        return released


def _overlap(text: str) -> int:
    """Length of a suffix that may begin the closing tag."""
    return next((size for size in range(len(CLOSE) - 1, 0, -1) if text.endswith(CLOSE[:size])), 0)
