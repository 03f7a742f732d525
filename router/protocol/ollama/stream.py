"""Folding a worker's stream into the answer of /api/chat or /api/generate.

A pure state machine: bytes in, bytes out. What the two endpoints write differs only in `ResponseWriter`.
"""

from __future__ import annotations

import msgspec

from vllama_pool.router.protocol.clock import TimestampFormatter
from vllama_pool.router.protocol.json_lines import encode
from vllama_pool.router.protocol.ollama.chunks import Chunk, ChunkBuffer, ResponseWriter, StreamState
from vllama_pool.router.protocol.ollama.logprobs import LogprobEntry
from vllama_pool.router.protocol.ollama.logprobs import translate as translate_logprobs
from vllama_pool.router.protocol.operation import Clock, StreamFailure, Timing, Usage
from vllama_pool.router.protocol.vllm import api, errors
from vllama_pool.router.protocol.vllm.sse import EventSplitter, EventTooLong
from vllama_pool.router.protocol.vllm.think_tags import ThinkTagSplitter
from vllama_pool.router.protocol.vllm.tool_calls import InvalidArguments

RUNNER_ERROR = "an error was encountered while running the model: "
"""How Ollama begins an error in mid-answer (R163)."""
_DONE = b"[DONE]"
_BROKEN_OFF = {"abort": 503, "error": 500}
"""Finish reasons that are no finish, and the status that they stand for."""


class TextTranslator:
    """A `StreamTranslator` over a chat or completions stream of vLLM."""

    __slots__ = (
        "_ask_logprobs",
        "_careful",
        "_clock",
        "_done",
        "_ended",
        "_failure",
        "_keep_ids",
        "_lines",
        "_out",
        "_pieces",
        "_ready",
        "_seen",
        "_splitter",
        "_stamp",
        "_stamps",
        "_stream",
        "_strip_content",
        "_strip_thinking",
        "_thoughts",
        "_timing",
    )

    def __init__(
        self,
        lines: ResponseWriter,
        timing: Timing,
        clock: Clock,
        *,
        stream: bool,
        logprobs: int | None,
        keep_ids: bool = False,
        thoughts: ThinkTagSplitter | None = None,
    ) -> None:
        """`logprobs`: alternatives wanted per token, None for no logprobs. `keep_ids`: gather `context`.
        `thoughts`: takes the thinking out of text that has it between tags."""
        self._lines = lines
        self._timing = timing
        self._clock = clock
        self._stream = stream
        self._ask_logprobs = logprobs
        self._keep_ids = keep_ids
        self._splitter = EventSplitter()
        self._stamps = TimestampFormatter()
        self._stamp = ""
        self._seen = StreamState()
        self._ready = False
        self._done = False
        self._ended = False
        self._failure: StreamFailure | None = None
        self._strip_content = False
        self._strip_thinking = True
        self._careful = thoughts is not None  # text cannot go out as it comes
        self._out: list[bytes] = []
        self._pieces = ChunkBuffer()
        self._thoughts = thoughts

    @property
    def ready(self) -> bool:
        return self._ready if self._stream else self._done

    @property
    def begun(self) -> bool:
        return self._ready

    @property
    def done(self) -> bool:
        return self._done

    @property
    def failure(self) -> StreamFailure | None:
        return self._failure

    @property
    def usage(self) -> Usage:
        return self._seen.usage

    def feed(self, data: bytes) -> bytes:
        try:
            payloads = self._splitter.feed(data)
        except EventTooLong:
            self._fail(502, RUNNER_ERROR + "the worker sent an event without end")
            return b""
        return self._take(payloads)

    def finish(self) -> bytes:
        if self._ended:
            return b""
        rest = self._take([payload for payload in self._splitter.rest() if _is_whole(payload)])
        if not self._done and self._seen.finish is not None and self._failure is None:
            self._complete()
            rest += self._taken()
        if not self._done:
            return rest + self.fail(self._failure.text if self._failure else RUNNER_ERROR + "unexpected EOF")
        if self._stream:
            return rest
        self._ended = True
        return self._final_line(self._pieces.joined())

    def fail(self, text: str) -> bytes:
        if self._ended:
            return b""
        self._ended = True
        line = encode({"error": text if text.startswith(RUNNER_ERROR) else RUNNER_ERROR + text})
        return line + b"\n" if self._stream else line

    def _take(self, payloads: list[bytes]) -> bytes:
        if not payloads or self._done or self._failure is not None or self._ended:
            return b""
        now = self._clock.time_ns()
        self._stamp = self._stamps(now)
        tick = self._clock.monotonic_ns()
        for payload in payloads:
            if payload == _DONE:
                self._on_done_mark()
            else:
                self._on_payload(payload, tick)
            if self._done or self._failure is not None:
                break
        return self._taken()

    def _taken(self) -> bytes:
        """The lines that are ready, each with its end."""
        out = self._out
        if not out:
            return b""
        out.append(b"")
        result = b"\n".join(out)
        out.clear()
        return result

    def _on_done_mark(self) -> None:
        """[DONE] closes a stream that finished; usage that has not come by now never will."""
        if self._seen.finish is not None:
            self._complete()
        else:
            self._fail(500, RUNNER_ERROR + "unexpected EOF")

    def _on_payload(self, payload: bytes, tick: int) -> None:
        try:
            event = api.decode_event(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
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
        self._seen.counted = event.usage
        self._seen.metrics = event.metrics or self._seen.metrics
        if self._seen.finish is not None and self._failure is None:
            self._complete()

    def _on_choice(self, choice: api.VllmChoice, tick: int) -> None:
        finish = choice.finish_reason
        if finish is not None and finish in _BROKEN_OFF:
            self._fail(_BROKEN_OFF[finish], RUNNER_ERROR + "the worker stopped the request")
            return
        delta = choice.delta
        text = (delta.content if delta is not None else choice.text) or ""
        if text:
            seen = self._seen
            if not seen.first:
                seen.first = tick
                self._ready = True
            seen.last = tick
            if (
                finish is None
                and choice.token_ids is None
                and choice.logprobs is None
                and not self._careful
                and (
                    delta is None
                    or (delta.reasoning is None and delta.tool_calls is None and delta.reasoning_content is None)
                )
            ):
                if self._stream:
                    self._out.append(self._lines.text(self._stamp, text))
                else:
                    self._pieces.texts.append(text)
                return
        self._on_rich_choice(choice, text, tick)

    def _on_rich_choice(self, choice: api.VllmChoice, text: str, tick: int) -> None:
        """Anything but plain text: reasoning, tool calls, logprobs, token ids, a finish, or nothing at all."""
        delta = choice.delta
        thinking = ""
        if delta is not None:
            thinking = self._trimmed(delta.reasoning or delta.reasoning_content or "", tick)
            if delta.tool_calls:
                self._seen.tool_calls.add(delta.tool_calls)
                self._touch(tick)
        if self._thoughts is not None:
            tagged, text = self._thoughts.split(text)
            if choice.finish_reason is not None:
                last_thinking, last_text = self._thoughts.rest()
                tagged, text = tagged + last_thinking, text + last_text
            thinking = self._trimmed(tagged, tick)
        if text and self._strip_content:
            text = text.lstrip()
            self._strip_content = not text
            self._careful = self._strip_content or self._thoughts is not None
        entries = self._entries(choice, tick)
        if self._keep_ids:
            self._gather_ids(choice)
        if text and self._stream and not (thinking or entries):
            self._out.append(self._lines.text(self._stamp, text))
        elif text or thinking or entries:
            self._emit(Chunk(text, thinking, None, entries))
        if choice.finish_reason is not None:
            self._touch(tick)
            self._on_finish(choice.finish_reason)

    def _trimmed(self, thinking: str, tick: int) -> str:
        """Templates put blank lines around reasoning; Ollama shows none at its start, nor before the answer."""
        if not thinking:
            return ""
        self._touch(tick)
        self._strip_content = self._careful = True
        if self._strip_thinking:
            thinking = thinking.lstrip()
            self._strip_thinking = not thinking
        return thinking

    def _entries(self, choice: api.VllmChoice, tick: int) -> list[LogprobEntry] | None:
        if choice.logprobs is None or self._ask_logprobs is None:
            return None
        entries = translate_logprobs(choice.logprobs, self._ask_logprobs)
        if _stopped_by_token(choice):
            del entries[-1:]
        if entries:
            self._touch(tick)
        return entries or None

    def _touch(self, tick: int) -> None:
        self._ready = True
        self._seen.first = self._seen.first or tick
        self._seen.last = tick

    def _gather_ids(self, choice: api.VllmChoice) -> None:
        if choice.prompt_token_ids:
            self._seen.prompt_ids = choice.prompt_token_ids
        ids = choice.token_ids
        if ids:
            self._seen.ids.extend(ids[:-1] if _stopped_by_token(choice) else ids)

    def _on_finish(self, reason: str) -> None:
        seen = self._seen
        seen.finish = reason
        if not seen.tool_calls:
            return
        try:
            calls = seen.tool_calls.whole(cut=reason == "length")
        except InvalidArguments:
            text = RUNNER_ERROR + "the arguments of a tool call are not a JSON object"
            self._failure = StreamFailure(500, text, models_own=True)
            return
        if calls:
            self._emit(Chunk(tool_calls=calls))

    def _emit(self, piece: Chunk) -> None:
        if self._stream:
            self._out.append(self._lines.piece(self._stamp, piece))
        else:
            self._pieces.add(piece)

    def _fail(self, status: int, text: str) -> None:
        self._failure = StreamFailure(status, text)

    def _complete(self) -> None:
        """The worker's answer is complete. Streaming, the last line goes out."""
        self._done = True
        self._ready = True
        if self._stream:
            self._ended = True
            self._out.append(self._final_line(Chunk()))

    def _final_line(self, piece: Chunk) -> bytes:
        now = self._clock.monotonic_ns()
        return self._lines.final(self._stamp, piece, self._seen.final(self._timing, now, context=self._keep_ids))


def _is_whole(payload: bytes) -> bool:
    """Whether the last event of an ended stream only lacks its line end."""
    try:
        api.decode_event(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return payload == _DONE
    return True


def _stopped_by_token(choice: api.VllmChoice) -> bool:
    """Whether the last token is the end mark, which is no text: Ollama counts it neither in `context` nor in
    `logprobs`. A stop string is named by `stop_reason`."""
    return choice.finish_reason in ("stop", "tool_calls") and not isinstance(choice.stop_reason, str)
