"""The parts of an answer, as a translator gathers them and an endpoint writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from vllama_pool.router.protocol.ollama.logprobs import LogprobEntry
from vllama_pool.router.protocol.operation import Timing, Usage
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.tool_calls import ResponseToolCall, ToolCalls

_MS = 1_000_000


@dataclass(slots=True)
class Chunk:
    """A part of an answer: one line of a stream, or all of it."""

    content: str = ""
    thinking: str = ""
    tool_calls: list[ResponseToolCall] | None = None
    logprobs: list[LogprobEntry] | None = None


@dataclass(frozen=True, slots=True)
class FinalFields:
    """What only the last line carries. Durations in nanoseconds, all at least 1 (R070)."""

    done_reason: str
    total_duration: int
    load_duration: int
    prompt_eval_count: int
    prompt_eval_duration: int
    eval_count: int
    eval_duration: int
    context: list[int] | None = None


class ResponseWriter(Protocol):
    """How an endpoint writes its objects: JSON without a line end."""

    def text(self, stamp: str, content: str) -> bytes:
        """The common case: nothing but text."""

    def piece(self, stamp: str, piece: Chunk) -> bytes: ...

    def final(self, stamp: str, piece: Chunk, final: FinalFields) -> bytes: ...


class ChunkBuffer:
    """Gathers pieces for an answer that is sent whole."""

    __slots__ = ("_calls", "_logprobs", "_thoughts", "texts")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[ResponseToolCall] = []
        self._logprobs: list[LogprobEntry] = []

    def add(self, piece: Chunk) -> None:
        if piece.content:
            self.texts.append(piece.content)
        if piece.thinking:
            self._thoughts.append(piece.thinking)
        self._calls.extend(piece.tool_calls or ())
        self._logprobs.extend(piece.logprobs or ())

    def joined(self) -> Chunk:
        return Chunk("".join(self.texts), "".join(self._thoughts), self._calls or None, self._logprobs or None)


@dataclass(slots=True)
class StreamState:
    """What the worker has said so far, apart from text."""

    finish: str | None = None
    """vLLM's own finish reason."""
    counted: api.VllmUsage | None = None
    metrics: api.VllmMetrics | None = None
    first: int = 0
    """Monotonic time of the first content, nanoseconds; 0 before."""
    last: int = 0
    tool_calls: ToolCalls = field(default_factory=ToolCalls)
    prompt_ids: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

    @property
    def done_reason(self) -> str:
        """Nothing but stop and length ever leaves (R069, R083); "" before the finish."""
        if self.finish is None:
            return ""
        return "length" if self.finish == "length" else "stop"

    @property
    def usage(self) -> Usage:
        counted = self.counted or api.VllmUsage()
        return Usage(counted.prompt_tokens, counted.completion_tokens or 0, self.done_reason)

    def final(self, timing: Timing, now: int, *, context: bool) -> FinalFields:
        """vLLM's own timings where it gives them, else the router's."""
        usage = self.usage
        metrics = self.metrics or api.VllmMetrics()
        prefill, generation = metrics.time_to_first_token_ms, metrics.generation_time_ms
        return FinalFields(
            done_reason=self.done_reason,
            total_duration=max(1, now - timing.arrived),
            load_duration=max(1, timing.sent - timing.arrived),
            prompt_eval_count=usage.prompt_tokens,
            prompt_eval_duration=max(1, int(prefill * _MS) if prefill else self.first - timing.sent),
            eval_count=usage.completion_tokens,
            eval_duration=max(1, int(generation * _MS) if generation else self.last - self.first),
            context=(self.prompt_ids + self.ids or None) if context else None,
        )
