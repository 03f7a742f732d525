"""Chunks of an answer, from stream translators to response writers."""

from __future__ import annotations

from typing import Protocol

import msgspec

from vllama_pool.router.protocol.ollama.logprobs import LogprobEntry
from vllama_pool.router.protocol.vllm.tool_calls import ResponseToolCall


class Chunk(msgspec.Struct, frozen=True):
    content: str = ""
    thinking: str = ""
    tool_calls: list[ResponseToolCall] | None = None
    logprobs: list[LogprobEntry] | None = None


class FinalFields(msgspec.Struct, frozen=True, omit_defaults=True):
    """In Ollama's order. Durations are nanoseconds, at least 1 (R070)."""

    done: bool
    done_reason: str = ""
    context: list[int] | None = None
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


UNFINISHED = FinalFields(False)


class ResponseWriter(Protocol):
    """Encodes the objects of one answer."""

    before_time: bytes
    """A plain object up to its timestamp."""
    before_text: bytes
    """From the timestamp of a plain object to its text, a JSON string."""
    after_text: bytes
    """From the text of a plain object to its final fields."""
    line_end: bytes
    """From the text of a plain line to its end."""

    def chunk(self, timestamp: str, chunk: Chunk, final: FinalFields = UNFINISHED) -> bytes:
        """Return an object, without a line end."""


class ChunkBuffer:
    """Joins what texts alone do not hold."""

    __slots__ = ("_logprobs", "_thinking", "_tool_calls")

    def __init__(self) -> None:
        self._thinking: list[str] = []
        self._tool_calls: list[ResponseToolCall] = []
        self._logprobs: list[LogprobEntry] = []

    def add(self, chunk: Chunk) -> None:
        if chunk.thinking:
            self._thinking.append(chunk.thinking)
        self._tool_calls.extend(chunk.tool_calls or ())
        self._logprobs.extend(chunk.logprobs or ())

    def joined(self, content: str) -> Chunk:
        return Chunk(content, "".join(self._thinking), self._tool_calls or None, self._logprobs or None)
