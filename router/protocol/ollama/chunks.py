"""Chunks of an answer, from stream translators to response writers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, TypedDict

from vllama_pool.router.protocol.ollama.logprobs import LogprobEntry
from vllama_pool.router.protocol.operation import Timing, Usage
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.tool_calls import ResponseToolCall, ToolCalls

_MS = 1_000_000


@dataclass(slots=True)
class Chunk:
    content: str = ""
    thinking: str = ""
    tool_calls: list[ResponseToolCall] | None = None
    logprobs: list[LogprobEntry] | None = None


class Totals(TypedDict, total=False):
    """Nanoseconds, at least 1 (R070)."""

    total_duration: int
    load_duration: int
    prompt_eval_count: int
    prompt_eval_duration: int
    eval_count: int
    eval_duration: int


@dataclass(frozen=True, slots=True)
class FinalFields:
    done: bool = True
    done_reason: str = ""
    totals: Totals = field(default_factory=Totals)
    context: list[int] | None = None


UNFINISHED = FinalFields(done=False)


class ResponseWriter(Protocol):
    """Encodes an endpoint's objects, without a line end."""

    def text(self, timestamp: str, content: str) -> bytes: ...

    def chunk(self, timestamp: str, chunk: Chunk, final: FinalFields = UNFINISHED) -> bytes: ...


class ChunkBuffer:
    __slots__ = ("_logprobs", "_thinking", "_tool_calls", "texts")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._thinking: list[str] = []
        self._tool_calls: list[ResponseToolCall] = []
        self._logprobs: list[LogprobEntry] = []

    def add(self, chunk: Chunk) -> None:
        if chunk.content:
            self.texts.append(chunk.content)
        if chunk.thinking:
            self._thinking.append(chunk.thinking)
        self._tool_calls.extend(chunk.tool_calls or ())
        self._logprobs.extend(chunk.logprobs or ())

    def joined(self) -> Chunk:
        return Chunk("".join(self.texts), "".join(self._thinking), self._tool_calls or None, self._logprobs or None)


@dataclass(slots=True)
class StreamState:
    finish_reason: str | None = None
    tokens: api.VllmUsage | None = None
    events: int = 0
    """Tokens of content events: one per event without ids."""
    metrics: api.VllmMetrics | None = None
    first: int = 0
    """Monotonic nanoseconds of the first content; 0 before."""
    last: int = 0
    tool_calls: ToolCalls = field(default_factory=ToolCalls)
    prompt_ids: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

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
        reported = self.tokens or api.VllmUsage()
        metrics = self.metrics or api.VllmMetrics()
        prefill, generation = metrics.time_to_first_token_ms, metrics.generation_time_ms
        totals = Totals(
            total_duration=max(1, now - timing.arrived),
            load_duration=max(1, timing.sent - timing.arrived),
            prompt_eval_count=reported.prompt_tokens,
            prompt_eval_duration=max(1, int(prefill * _MS) if prefill else self.first - timing.sent),
            eval_count=reported.completion_tokens or 0,
            eval_duration=max(1, int(generation * _MS) if generation else self.last - self.first),
        )
        context = (self.prompt_ids + self.ids or None) if with_context else None
        return FinalFields(done_reason=self.done_reason, totals=totals, context=context)
