"""Builds Ollama's answer from vLLM's choices."""

from __future__ import annotations

from collections.abc import Sequence

from vllama_pool.router.protocol.json_lines import encode, encode_lines
from vllama_pool.router.protocol.ollama.blank_limit import BlankLimit
from vllama_pool.router.protocol.ollama.chunks import Chunk, ChunkBuffer, FinalFields, ResponseWriter
from vllama_pool.router.protocol.ollama.logprobs import LogprobEntry
from vllama_pool.router.protocol.ollama.logprobs import translate as translate_logprobs
from vllama_pool.router.protocol.operation import Clock, Timing, Usage
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.text_frame import ids_of
from vllama_pool.router.protocol.vllm.think_tags import ThinkTagSplitter
from vllama_pool.router.protocol.vllm.tool_calls import InvalidToolCall, ResponseToolCall, ToolCalls

_ABORTED = {"abort": 503, "error": 500}
"""HTTP status by finish reason, for requests that vLLM gave up."""
_MS = 1_000_000
_NO_TOKENS = api.VllmUsage()
_MANY = 64
"""Reads whose ids are read at once."""


class Aborted(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class InvalidAnswer(Exception):
    """The answer's end is invalid. `lines`: those of the same event."""

    def __init__(self, text: str, lines: bytes) -> None:
        super().__init__(text)
        self.lines = lines


class AnswerBuilder:
    """Writes a line per chunk when streaming, else joins them. Strips blank lines around reasoning as Ollama does."""

    __slots__ = (
        *("_all_content", "_before_text", "_blanks", "_buffer", "_clock", "_ids", "_logprobs"),
        *("_metrics", "_prompt_ids", "_stream", "_strip_content", "_strip_thinking", "_texts", "_think_tags"),
        *(
            "_timestamp",
            "_tokens",
            "_tool_calls",
            "_writer",
            "begun",
            "cut_off",
            "events",
            "finish_reason",
            "first",
            "keeps_ids",
            "last",
        ),
        "_unread",
        "plain",
    )

    def __init__(
        self,
        writer: ResponseWriter,
        clock: Clock,
        stream: bool,
        logprobs: int | None,
        keep_ids: bool = False,
        think_tags: ThinkTagSplitter | None = None,
        all_content: bool = False,
        blanks: BlankLimit | None = None,
    ) -> None:
        """`logprobs`: alternatives per token; None to omit logprobs. `keep_ids`: collect `context`.

        `all_content`: what vLLM's parser takes for reasoning is content. `blanks`: ends the answer.
        """
        self._writer = writer
        self._timestamp = ""
        self._before_text = b""
        self._clock = clock
        self._stream = stream
        self._logprobs = logprobs
        self.keeps_ids = keep_ids
        self._think_tags = think_tags
        self._all_content = all_content
        self._blanks = blanks
        self.begun = False
        self.cut_off = False
        self.plain = think_tags is None and blanks is None
        """Texts are written as they come."""
        self.finish_reason: str | None = None
        self.first = 0
        """Monotonic nanoseconds of the first content; 0 before."""
        self.last = 0
        """Monotonic nanoseconds of the end."""
        self.events = 0
        """Tokens of content events: one per event without ids."""
        self._tokens: api.VllmUsage | None = None
        self._metrics: api.VllmMetrics | None = None
        self._tool_calls: ToolCalls | None = None
        self._strip_content = False
        self._strip_thinking = True
        self._texts: list[str] = []
        self._buffer: ChunkBuffer | None = None
        self._prompt_ids: Sequence[int] = ()
        self._ids: list[int] | None = None
        self._unread: list[bytes] = []
        """Events whose ids are still to be read."""

    def set_time(self, timestamp: str) -> None:
        """Set the time of the lines to be written."""
        self._timestamp = timestamp
        writer = self._writer
        self._before_text = b"".join((writer.before_time, timestamp.encode(), writer.before_text))

    @property
    def usage(self) -> Usage:
        """vLLM's count, or until it arrives the number of events, a lower bound."""
        tokens = self._tokens
        if tokens is None:
            self._read_ids()
            return Usage(len(self._prompt_ids), max(self.events, len(self._ids or ())), self._done_reason())
        return Usage(tokens.prompt_tokens, tokens.completion_tokens or 0, self._done_reason())

    def _done_reason(self) -> str:
        """Either "stop" or "length" (R069, R083); "" before the finish."""
        reason = self.finish_reason
        return reason if reason == "length" else "" if reason is None else "stop"

    def final(self, timing: Timing) -> bytes:
        """Return the last line, or the whole answer."""
        fields = self._final_fields(timing)
        content = "".join(self._texts)
        if self._buffer is not None:
            return self._writer.chunk(self._timestamp, self._buffer.joined(content), fields)
        end = b"\n" if self._stream else b""
        text = encode(content) if content else b'""'
        return b"".join((self._before_text, text, self._writer.after_text, api.encode(fields)[1:], end))

    def _final_fields(self, timing: Timing) -> FinalFields:
        """Prefers vLLM's durations to the router's."""
        total = self._clock.monotonic_ns() - timing.arrived
        load = timing.sent - timing.arrived
        prefill, generation = self.first - timing.sent, self.last - self.first
        self._read_ids()
        tokens, metrics = self._tokens or _NO_TOKENS, self._metrics
        if metrics is not None:
            if metrics.time_to_first_token_ms:
                prefill = int(metrics.time_to_first_token_ms * _MS)
            if metrics.generation_time_ms:
                generation = int(metrics.generation_time_ms * _MS)
        return FinalFields(
            True,
            self._done_reason(),
            ([*self._prompt_ids, *(self._ids or ())] or None) if self.keeps_ids else None,
            total if total > 0 else 1,
            load if load > 0 else 1,
            tokens.prompt_tokens,
            prefill if prefill > 0 else 1,
            tokens.completion_tokens or 0,
            generation if generation > 0 else 1,
        )

    def add_prompt_ids(self, ids: list[int]) -> None:
        self._prompt_ids = ids

    def drop_ids(self, count: int) -> None:
        """Forget the last ids."""
        self._read_ids()
        if count and self._ids:
            del self._ids[-count:]

    def add_usage(self, event: api.VllmEvent) -> None:
        self.begun = True
        self._tokens = event.usage
        self._metrics = event.metrics or self._metrics

    def keep_ids_of(self, events: bytes) -> None:
        """Read the ids of an `IdsFrame`'s events later, many at once."""
        self._unread.append(events)
        if len(self._unread) >= _MANY:
            self._read_ids()

    def _read_ids(self) -> None:
        if self._unread:
            self._ids = self._ids or []
            self._ids += ids_of(self._unread)
            self._unread.clear()

    def add_texts(self, texts: list[str]) -> bytes:
        """Return the lines of texts that go on with a plain answer."""
        self.events += len(texts)
        if not self._stream:
            self._texts += texts
            return b""
        before, after = self._before_text, self._writer.line_end
        if len(texts) == 1:
            return b"".join((before, encode(texts[0]), after)) if texts[0] else b""
        if "" in texts:
            texts = [text for text in texts if text]
            if not texts:
                return b""
        return b"".join((before, encode_lines(texts)[:-1].replace(b"\n", after + before), after))

    def add(self, choice: api.VllmChoice) -> bytes:
        """Return the lines of an event, if any. Raises Aborted and InvalidAnswer."""
        delta, reason = choice.delta, choice.finish_reason
        if reason is not None and reason in _ABORTED:
            raise Aborted(_ABORTED[reason])
        if delta is None:
            text, others = choice.text, None
        else:
            text, others = delta.content, delta.reasoning or delta.tool_calls or delta.reasoning_content
        ids = choice.token_ids
        if ids is not None or choice.prompt_token_ids is not None:
            self.events += len(ids or ())
        elif text or others or reason is not None or self.begun:
            self.events += 1
        if self.keeps_ids:
            self._collect_ids(choice)
        if others or choice.logprobs is not None or not self.plain:
            return self._add_rich(choice, text or "")
        lines = b""
        if text:
            if not self.first:
                self._touch()
            if self._stream:
                lines = self._line(text)
            else:
                self._texts.append(text)
        return lines if reason is None else self._finish(reason, lines)

    def _line(self, text: str) -> bytes:
        return b"".join((self._before_text, encode(text), self._writer.line_end))

    def _add_rich(self, choice: api.VllmChoice, content: str) -> bytes:
        text, reason = content, choice.finish_reason
        thinking = ""
        delta = choice.delta
        if delta is not None:
            reasoning = delta.reasoning or delta.reasoning_content or ""
            if self._all_content and reasoning:
                text = reasoning + text
            elif reasoning:
                thinking = self._stripped_thinking(reasoning)
            if delta.tool_calls:
                self._add_tool_calls(delta.tool_calls)
        if text:
            self._touch()
        if self._think_tags is not None:
            tagged, text = self._think_tags.split(text)
            if reason is not None:
                last_thinking, last_text = self._think_tags.rest()
                tagged, text = tagged + last_thinking, text + last_text
            thinking = self._stripped_thinking(tagged)
        if text and self._strip_content:
            text = text.lstrip()
            self._strip_content = not text
            self.plain = bool(text) and self._think_tags is None and self._blanks is None
        entries = self._entries(choice)
        lines = self._emit(text, thinking, None, entries)
        if reason is not None:
            lines = self._finish(reason, lines)
        if content and self._blanks is not None and reason is None and self._blanks.exceeded(content):
            self._cut_off()
        return lines

    def _cut_off(self) -> None:
        """End the answer with the count so far, as vLLM's will not arrive."""
        self.finish_reason = "length"
        self.last = self._clock.monotonic_ns()
        usage = self.usage
        self._tokens = api.VllmUsage(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)
        self.cut_off = True

    def _add_tool_calls(self, deltas: list[api.VllmToolCallDelta]) -> None:
        if self._tool_calls is None:
            self._tool_calls = ToolCalls()
        self._tool_calls.add(deltas)
        self._touch()

    def _stripped_thinking(self, thinking: str) -> str:
        if not thinking:
            return ""
        self._touch()
        self._strip_content = True
        self.plain = False
        if self._strip_thinking:
            thinking = thinking.lstrip()
            self._strip_thinking = not thinking
        return thinking

    def _entries(self, choice: api.VllmChoice) -> list[LogprobEntry] | None:
        if choice.logprobs is None or self._logprobs is None:
            return None
        entries = translate_logprobs(choice.logprobs, self._logprobs)
        if _ends_in_stop_token(choice):
            del entries[-1:]
        if entries:
            self._touch()
        return entries or None

    def _touch(self) -> None:
        self.begun = True
        if not self.first:
            self.first = self._clock.monotonic_ns()

    def _collect_ids(self, choice: api.VllmChoice) -> None:
        self._read_ids()
        if choice.prompt_token_ids:
            self._prompt_ids = choice.prompt_token_ids
        ids = choice.token_ids
        if ids:
            self._ids = self._ids or []
            self._ids.extend(ids[:-1] if _ends_in_stop_token(choice) else ids)

    def _finish(self, reason: str, lines: bytes) -> bytes:
        """Return the lines of the last event, with those of the tool calls."""
        self._touch()
        self.finish_reason = reason
        self.last = self._clock.monotonic_ns()
        if self._tool_calls is None:
            return lines
        try:
            tool_calls = self._tool_calls.complete(truncated=reason == "length")
        except InvalidToolCall as error:
            raise InvalidAnswer(str(error), lines) from None
        return lines + self._emit(tool_calls=tool_calls or None)

    def _emit(
        self,
        text: str = "",
        thinking: str = "",
        tool_calls: list[ResponseToolCall] | None = None,
        logprobs: list[LogprobEntry] | None = None,
    ) -> bytes:
        """Return a line when streaming. Nothing is written for an empty chunk."""
        rich = bool(thinking or tool_calls or logprobs)
        if not self._stream:
            if text:
                self._texts.append(text)
            if rich:
                self._buffer = self._buffer or ChunkBuffer()
                self._buffer.add(Chunk(text, thinking, tool_calls, logprobs))
            return b""
        if rich:
            return self._writer.chunk(self._timestamp, Chunk(text, thinking, tool_calls, logprobs)) + b"\n"
        return self._line(text) if text else b""


def _ends_in_stop_token(choice: api.VllmChoice) -> bool:
    """True if the last token is the end mark, which `context` and `logprobs` omit."""
    return choice.finish_reason in ("stop", "tool_calls") and not isinstance(choice.stop_reason, str)
