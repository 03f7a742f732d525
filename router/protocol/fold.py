"""Folding a worker's stream into the answer of /api/chat or /api/generate.

A pure state machine: bytes in, bytes out. What the two endpoints write differs only in `Lines`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from router.protocol import errors, openai
from router.protocol.clock import Stamps
from router.protocol.framing import EventSplitter, EventTooLong
from router.protocol.logprobs import Entry
from router.protocol.logprobs import translate as translate_logprobs
from router.protocol.operation import Clock, StreamFailure, Timing, Usage
from router.protocol.tool_calls import AnswerCall, BrokenArguments, ToolCalls

RUNNER_ERROR = "an error was encountered while running the model: "
"""How Ollama begins an error in mid-answer (R163)."""
_DONE = b"[DONE]"
_MS = 1_000_000


@dataclass(slots=True)
class Piece:
    """A part of an answer: one line of a stream, or all of it."""

    content: str = ""
    thinking: str = ""
    tool_calls: list[AnswerCall] | None = None
    logprobs: list[Entry] | None = None


@dataclass(frozen=True, slots=True)
class Final:
    """What only the last line carries. Durations in nanoseconds, all at least 1 (R070)."""

    done_reason: str
    total_duration: int
    load_duration: int
    prompt_eval_count: int
    prompt_eval_duration: int
    eval_count: int
    eval_duration: int
    context: list[int] | None = None


class Lines(Protocol):
    """How an endpoint writes its objects: JSON without a line end."""

    def text(self, stamp: str, content: str) -> bytes:
        """The common case: nothing but text."""

    def piece(self, stamp: str, piece: Piece) -> bytes: ...

    def final(self, stamp: str, piece: Piece, final: Final) -> bytes: ...


@dataclass(slots=True)
class _Seen:
    """What the worker has said so far, apart from text."""

    finish: str | None = None
    usage: openai.Usage | None = None
    metrics: openai.Metrics | None = None
    first: int = 0
    """Monotonic time of the first content, nanoseconds; 0 before."""
    last: int = 0
    tool_calls: ToolCalls = field(default_factory=ToolCalls)
    prompt_ids: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)


class AnswerFold:
    """A `Fold` over a chat or completions stream of vLLM."""

    __slots__ = (
        "_all_calls",
        "_all_logprobs",
        "_ask_logprobs",
        "_clock",
        "_done",
        "_ended",
        "_failure",
        "_keep_ids",
        "_lines",
        "_out",
        "_ready",
        "_seen",
        "_splitter",
        "_stamp",
        "_stamps",
        "_stream",
        "_strip_content",
        "_strip_thinking",
        "_texts",
        "_thoughts",
        "_timing",
    )

    def __init__(
        self,
        lines: Lines,
        timing: Timing,
        clock: Clock,
        *,
        stream: bool,
        logprobs: int | None,
        keep_ids: bool = False,
    ) -> None:
        """`logprobs`: alternatives wanted per token, None for no logprobs. `keep_ids`: gather `context`."""
        self._lines = lines
        self._timing = timing
        self._clock = clock
        self._stream = stream
        self._ask_logprobs = logprobs
        self._keep_ids = keep_ids
        self._splitter = EventSplitter()
        self._stamps = Stamps()
        self._stamp = ""
        self._seen = _Seen()
        self._ready = False
        self._done = False
        self._ended = False
        self._failure: StreamFailure | None = None
        self._strip_content = False
        self._strip_thinking = True
        self._out: list[bytes] = []
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._all_logprobs: list[Entry] = []
        self._all_calls: list[AnswerCall] = []

    @property
    def ready(self) -> bool:
        return self._ready if self._stream else self._done

    @property
    def done(self) -> bool:
        return self._done

    @property
    def failure(self) -> StreamFailure | None:
        return self._failure

    @property
    def usage(self) -> Usage:
        seen = self._seen
        counted = seen.usage or openai.Usage()
        return Usage(
            counted.prompt_tokens,
            counted.completion_tokens or 0,
            _done_reason(seen.finish) if seen.finish else "",
        )

    def feed(self, data: bytes) -> bytes:
        try:
            payloads = self._splitter.feed(data)
        except EventTooLong:
            self._fail(502, RUNNER_ERROR + "the worker sent an event without end")
            return b""
        return self._take(payloads)

    def finish(self) -> bytes:
        rest = self._take(self._splitter.rest()) if not self._done else b""
        if not self._done and self._seen.finish is not None and self._failure is None:
            rest += self._complete()
        if not self._done:
            text = self._failure.text if self._failure else RUNNER_ERROR + "unexpected EOF"
            return rest + self.fail(text)
        if self._stream or self._ended:
            return rest
        self._ended = True
        return self._whole()

    def fail(self, text: str) -> bytes:
        if self._ended or (self._done and self._stream):
            return b""
        self._ended = True
        line = openai.encode({"error": text})
        return line + b"\n" if self._stream else line

    def _take(self, payloads: list[bytes]) -> bytes:
        if not payloads or self._done or self._failure is not None or self._ended:
            return b""
        now = self._clock.time_ns()
        self._stamp = self._stamps(now)
        tick = self._clock.monotonic_ns()
        out = self._out
        for payload in payloads:
            if payload == _DONE:
                self._on_done_mark()
            else:
                self._on_payload(payload, tick)
            if self._done or self._failure is not None:
                break
        if not out:
            return b""
        result = b"\n".join(out) + b"\n"
        out.clear()
        return result

    def _on_done_mark(self) -> None:
        """[DONE] closes a stream that finished; usage that has not come by now never will."""
        if self._seen.finish is not None:
            self._complete_into_out()
        else:
            self._fail(500, RUNNER_ERROR + "unexpected EOF")

    def _on_payload(self, payload: bytes, tick: int) -> None:
        try:
            event = openai.decode_event(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._fail(502, RUNNER_ERROR + "the worker sent an event that is not understood")
            return
        if event.choices:
            self._on_choice(event.choices[0], tick)
        if event.usage is None:
            if event.error is not None:
                self._fail(errors.event_status(event.error), errors.explain_event(event.error))
            elif event.prompt_token_ids and self._keep_ids:
                self._seen.prompt_ids = event.prompt_token_ids
            return
        self._ready = True
        self._seen.usage = event.usage
        self._seen.metrics = event.metrics or self._seen.metrics
        if self._seen.finish is not None and self._failure is None:
            self._complete_into_out()

    def _on_choice(self, choice: openai.Choice, tick: int) -> None:
        delta = choice.delta
        text = (delta.content if delta is not None else choice.text) or ""
        if text:
            seen = self._seen
            if not seen.first:
                seen.first = tick
                self._ready = True
            seen.last = tick
            if (
                choice.finish_reason is None
                and choice.token_ids is None
                and choice.logprobs is None
                and not self._strip_content
                and (delta is None or (delta.reasoning is None and delta.tool_calls is None))
            ):
                if self._stream:
                    self._out.append(self._lines.text(self._stamp, text))
                else:
                    self._texts.append(text)
                return
        self._on_rich_choice(choice, text, tick)

    def _on_rich_choice(self, choice: openai.Choice, text: str, tick: int) -> None:
        """Anything but plain text: reasoning, tool calls, logprobs, token ids, a finish, or nothing at all."""
        seen = self._seen
        delta = choice.delta
        thinking = ""
        if delta is not None:
            thinking = delta.reasoning or delta.reasoning_content or ""
            if delta.tool_calls:
                seen.tool_calls.add(delta.tool_calls)
                self._touch(tick)
        if thinking:
            self._touch(tick)
            # Templates put blank lines around reasoning; Ollama shows none at its start, nor before the answer.
            self._strip_content = True
            if self._strip_thinking:
                thinking = thinking.lstrip()
                self._strip_thinking = not thinking
        if text and self._strip_content:
            text = text.lstrip()
            self._strip_content = not text
        entries = None
        if choice.logprobs is not None and self._ask_logprobs is not None:
            entries = translate_logprobs(choice.logprobs, self._ask_logprobs)
            if _stopped_by_token(choice):
                del entries[-1:]
            if entries:
                self._touch(tick)
        if self._keep_ids:
            self._gather_ids(choice)
        if text or thinking or entries:
            self._emit(Piece(text, thinking, None, entries or None))
        if choice.finish_reason is not None:
            self._touch(tick)
            self._on_finish(choice.finish_reason)

    def _touch(self, tick: int) -> None:
        self._ready = True
        self._seen.first = self._seen.first or tick
        self._seen.last = tick

    def _gather_ids(self, choice: openai.Choice) -> None:
        if choice.prompt_token_ids:
            self._seen.prompt_ids = choice.prompt_token_ids
        ids = choice.token_ids
        if ids:
            self._seen.ids.extend(ids[:-1] if _stopped_by_token(choice) else ids)

    def _on_finish(self, reason: str) -> None:
        seen = self._seen
        if reason in ("abort", "error"):
            self._fail(503 if reason == "abort" else 500, RUNNER_ERROR + "the worker stopped the request")
            return
        seen.finish = reason
        if not seen.tool_calls:
            return
        try:
            calls = seen.tool_calls.whole(cut=reason == "length")
        except BrokenArguments:
            self._fail(500, RUNNER_ERROR + "the arguments of a tool call are not a JSON object")
            return
        if calls:
            self._emit(Piece(tool_calls=calls))

    def _emit(self, piece: Piece) -> None:
        if self._stream:
            self._out.append(self._lines.piece(self._stamp, piece))
            return
        if piece.content:
            self._texts.append(piece.content)
        if piece.thinking:
            self._thoughts.append(piece.thinking)
        if piece.logprobs:
            self._all_logprobs.extend(piece.logprobs)
        if piece.tool_calls:
            self._all_calls.extend(piece.tool_calls)

    def _fail(self, status: int, text: str) -> None:
        self._failure = StreamFailure(status, text)

    def _complete_into_out(self) -> None:
        line = self._complete()
        if line:
            self._out.append(line.removesuffix(b"\n"))

    def _complete(self) -> bytes:
        """The worker's answer is complete. Streaming, this is the last line."""
        self._done = True
        self._ready = True
        if not self._stream:
            return b""
        self._ended = True
        return self._lines.final(self._stamp, Piece(), self._final()) + b"\n"

    def _whole(self) -> bytes:
        piece = Piece(
            "".join(self._texts), "".join(self._thoughts), self._all_calls or None, self._all_logprobs or None
        )
        return self._lines.final(self._stamp, piece, self._final())

    def _final(self) -> Final:
        seen = self._seen
        timing = self._timing
        usage = seen.usage or openai.Usage()
        metrics = seen.metrics or openai.Metrics()
        prefill = metrics.time_to_first_token_ms
        generation = metrics.generation_time_ms
        now = self._clock.monotonic_ns()
        return Final(
            done_reason=_done_reason(seen.finish or ""),
            total_duration=max(1, now - timing.arrived),
            load_duration=max(1, timing.sent - timing.arrived),
            prompt_eval_count=usage.prompt_tokens,
            prompt_eval_duration=max(1, int(prefill * _MS) if prefill else seen.first - timing.sent),
            eval_count=usage.completion_tokens or 0,
            eval_duration=max(1, int(generation * _MS) if generation else seen.last - seen.first),
            context=seen.prompt_ids + seen.ids if self._keep_ids else None,
        )


def _stopped_by_token(choice: openai.Choice) -> bool:
    """Whether the last token is the end mark, which is no text: Ollama counts it neither in `context` nor in
    `logprobs`. A stop string is named by `stop_reason`."""
    return choice.finish_reason in ("stop", "tool_calls") and not isinstance(choice.stop_reason, str)


def _done_reason(finish: str) -> str:
    """Nothing but stop and length ever leaves (R069, R083)."""
    return "length" if finish == "length" else "stop"
