"""Builds Ollama's answer from vLLM's choices."""

from __future__ import annotations

from vllama_pool.router.protocol.json_lines import encode
from vllama_pool.router.protocol.ollama.chunks import EMPTY, Chunk, ChunkBuffer, ResponseWriter, StreamState
from vllama_pool.router.protocol.ollama.logprobs import LogprobEntry
from vllama_pool.router.protocol.ollama.logprobs import translate as translate_logprobs
from vllama_pool.router.protocol.operation import Clock, Timing
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.think_tags import ThinkTagSplitter
from vllama_pool.router.protocol.vllm.tool_calls import InvalidToolCall, ResponseToolCall, ToolCalls

_ABORTED = {"abort": 503, "error": 500}
"""HTTP status by finish reason, for requests that vLLM gave up."""


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
        "_all_content",
        "_buffer",
        "_clock",
        "_keep_ids",
        "_logprobs",
        "_plain_text",
        "_stream",
        "_strip_content",
        "_strip_thinking",
        "_texts",
        "_think_tags",
        "_writer",
        "begun",
        "cut_off",
        "state",
        "timestamp",
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
    ) -> None:
        """`logprobs`: alternatives per token; None to omit logprobs. `keep_ids`: collect `context`.

        `all_content`: what vLLM's parser takes for reasoning is content.
        """
        self.state = StreamState()
        self.begun = False
        self.cut_off = False
        self.timestamp = ""
        """Of the lines to be written."""
        self._writer = writer
        self._clock = clock
        self._stream = stream
        self._logprobs = logprobs
        self._keep_ids = keep_ids
        self._think_tags = think_tags
        self._all_content = all_content
        self._strip_content = False
        self._strip_thinking = True
        self._plain_text = think_tags is None
        self._texts: list[str] = []
        self._buffer: ChunkBuffer | None = None

    def final(self, timing: Timing) -> bytes:
        """Return the last line, or the whole answer."""
        fields = self.state.final(timing, self._clock.monotonic_ns(), with_context=self._keep_ids)
        if self._stream:
            return self._writer.chunk(self.timestamp, EMPTY, fields) + b"\n"
        content = "".join(self._texts)
        chunk = Chunk(content) if self._buffer is None else self._buffer.joined(content)
        return self._writer.chunk(self.timestamp, chunk, fields)

    def add_prompt_ids(self, ids: list[int]) -> None:
        if self._keep_ids:
            self.state.prompt_ids = ids

    def add_usage(self, event: api.VllmEvent) -> None:
        self.begun = True
        self.state.tokens = event.usage
        self.state.metrics = event.metrics or self.state.metrics

    def add(self, choice: api.VllmChoice) -> bytes:
        """Return the lines of an event, if any. Raises Aborted and InvalidAnswer."""
        delta = choice.delta
        if delta is None:
            text, others = choice.text, None
        else:
            text, others = delta.content, delta.reasoning or delta.tool_calls or delta.reasoning_content
        if others or choice.finish_reason is not None or choice.logprobs is not None or not self._plain_text:
            return self._add_rich(choice, text or "")
        state, ids = self.state, choice.token_ids
        if ids is not None or choice.prompt_token_ids is not None:
            state.events += len(ids or ())
            if self._keep_ids:
                self._collect_ids(choice)
        elif text or self.begun:
            state.events += 1
        if not text:
            return b""
        if not state.first:
            self._touch()
        if self._stream:
            return self._writer.text(self.timestamp, encode(text))
        self._texts.append(text)
        return b""

    def _add_rich(self, choice: api.VllmChoice, text: str) -> bytes:
        finish_reason = choice.finish_reason
        if finish_reason is not None and finish_reason in _ABORTED:
            raise Aborted(_ABORTED[finish_reason])
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
            if finish_reason is not None:
                last_thinking, last_text = self._think_tags.rest()
                tagged, text = tagged + last_thinking, text + last_text
            thinking = self._stripped_thinking(tagged)
        if text and self._strip_content:
            text = text.lstrip()
            self._strip_content = not text
            self._plain_text = not self._strip_content and self._think_tags is None
        entries = self._entries(choice)
        if self._keep_ids:
            self._collect_ids(choice)
        lines = self._emit(text, thinking, None, entries)
        if finish_reason is not None:
            try:
                lines += self._finish(finish_reason)
            except InvalidToolCall as error:
                raise InvalidAnswer(str(error), lines) from None
        if self.begun:
            self.state.events += len(choice.token_ids or ()) or 1
        return lines

    def _add_tool_calls(self, deltas: list[api.VllmToolCallDelta]) -> None:
        if self.state.tool_calls is None:
            self.state.tool_calls = ToolCalls()
        self.state.tool_calls.add(deltas)
        self._touch()

    def _stripped_thinking(self, thinking: str) -> str:
        if not thinking:
            return ""
        self._touch()
        self._strip_content = True
        self._plain_text = False
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
        if not self.state.first:
            self.state.first = self._clock.monotonic_ns()

    def _collect_ids(self, choice: api.VllmChoice) -> None:
        if choice.prompt_token_ids:
            self.state.prompt_ids = choice.prompt_token_ids
        ids = choice.token_ids
        if ids:
            self.state.ids.extend(ids[:-1] if _ends_in_stop_token(choice) else ids)

    def _finish(self, reason: str) -> bytes:
        self._touch()
        state = self.state
        state.finish_reason = reason
        state.last = self._clock.monotonic_ns()
        if state.tool_calls is None:
            return b""
        return self._emit(tool_calls=state.tool_calls.complete(truncated=reason == "length") or None)

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
            return self._writer.chunk(self.timestamp, Chunk(text, thinking, tool_calls, logprobs)) + b"\n"
        return self._writer.text(self.timestamp, encode(text)) if text else b""


def _ends_in_stop_token(choice: api.VllmChoice) -> bool:
    """True if the last token is the end mark, which `context` and `logprobs` omit."""
    return choice.finish_reason in ("stop", "tool_calls") and not isinstance(choice.stop_reason, str)
