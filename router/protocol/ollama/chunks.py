"""Chunks of an answer, from stream translators to response writers."""

from __future__ import annotations

from typing import Protocol

import msgspec

from vllama_pool.router.protocol.ollama.logprobs import LogprobEntry
from vllama_pool.router.protocol.operation import Timing, Usage
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.tool_calls import ResponseToolCall, ToolCalls

_MS = 1_000_000


class Chunk(msgspec.Struct, frozen=True):
    content: str = ""
    thinking: str = ""
    tool_calls: list[ResponseToolCall] | None = None
    logprobs: list[LogprobEntry] | None = None


EMPTY = Chunk()


class FinalFields(msgspec.Struct, frozen=True):
    """Durations are nanoseconds, at least 1 (R070)."""

    done: bool = True
    done_reason: str = ""
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
    context: list[int] | None = None


UNFINISHED = FinalFields(done=False)


class ResponseWriter(Protocol):
    """Encodes the objects of one answer."""

    def text(self, timestamp: str, content: bytes) -> bytes:
        """Return a line. `content`: a JSON string."""

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


class StreamState:
    __slots__ = ("events", "finish_reason", "first", "ids", "last", "metrics", "prompt_ids", "tokens", "tool_calls")

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self.tokens: api.VllmUsage | None = None
        self.events = 0
        """Tokens of content events: one per event without ids."""
        self.metrics: api.VllmMetrics | None = None
        self.first = 0
        """Monotonic nanoseconds of the first content; 0 before."""
        self.last = 0
        """Monotonic nanoseconds of the end."""
        self.tool_calls: ToolCalls | None = None
        self.prompt_ids: list[int] = []
        self.ids: list[int] = []

    @property
    def done_reason(self) -> str:
        """Either "stop" or "length" (R069, R083); "" before the finish."""
        if self.finish_reason is None:
            return ""
        return "length" if self.finish_reason == "length" else "stop"

    @property
    def usage(self) -> Usage:
        """vLLM's count, or until it arrives the number of events, a lower bound."""
        tokens = self.tokens
        if tokens is None:
            return Usage(len(self.prompt_ids), max(self.events, len(self.ids)), self.done_reason)
        return Usage(tokens.prompt_tokens, tokens.completion_tokens or 0, self.done_reason)

    def count_tokens(self) -> None:
        """Keep the count so far, where vLLM's will not arrive."""
        usage = self.usage
        self.tokens = api.VllmUsage(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)

    def final(self, timing: Timing, now: int, *, with_context: bool) -> FinalFields:
        """Prefers vLLM's durations to the router's."""
        tokens, metrics = self.tokens, self.metrics
        prefill = generation = None
        if metrics is not None:
            prefill, generation = metrics.time_to_first_token_ms, metrics.generation_time_ms
        return FinalFields(
            True,
            self.done_reason,
            _positive(now - timing.arrived),
            _positive(timing.sent - timing.arrived),
            tokens.prompt_tokens if tokens is not None else 0,
            _positive(int(prefill * _MS) if prefill else self.first - timing.sent),
            (tokens.completion_tokens or 0) if tokens is not None else 0,
            _positive(int(generation * _MS) if generation else self.last - self.first),
            (self.prompt_ids + self.ids or None) if with_context else None,
        )


def _positive(duration: int) -> int:
    return duration if duration > 0 else 1
