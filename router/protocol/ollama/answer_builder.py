"""Builds Ollama's answer from vLLM's choices."""

from __future__ import annotations

from vllama_pool.router.protocol.ollama.chunks import Chunk, ChunkBuffer, ResponseWriter, StreamState
from vllama_pool.router.protocol.ollama.logprobs import LogprobEntry
from vllama_pool.router.protocol.ollama.logprobs import translate as translate_logprobs
from vllama_pool.router.protocol.operation import Timing
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.think_tags import ThinkTagSplitter

_ABORTED = {"abort": 503, "error": 500}
"""HTTP status by finish reason, for requests that vLLM gave up."""


class Aborted(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class AnswerBuilder:
    """Writes a line per chunk when streaming, else joins them. Strips blank lines around reasoning as Ollama does."""

    __slots__ = (
        "_all_content",
        "_buffer",
        "_keep_ids",
        "_lines",
        "_logprobs",
        "_plain_text",
        "_stream",
        "_strip_content",
        "_strip_thinking",
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
        *,
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
        self._writer = writer
        self._stream = stream
        self._logprobs = logprobs
        self._keep_ids = keep_ids
        self._think_tags = think_tags
        self._all_content = all_content
        self._strip_content = False
        self._strip_thinking = True
        self._plain_text = think_tags is None
        self._lines: list[bytes] = []
        self._buffer = ChunkBuffer()

    def lines(self) -> bytes:
        """Return the lines written since the last call."""
        lines = self._lines
        if not lines:
            return b""
        lines.append(b"")
        result = b"\n".join(lines)
        lines.clear()
        return result

    def end(self, timing: Timing, now: int) -> None:
        self._lines.append(self._final(Chunk(), timing, now))

    def whole(self, timing: Timing, now: int) -> bytes:
        return self._final(self._buffer.joined(), timing, now)

    def _final(self, chunk: Chunk, timing: Timing, now: int) -> bytes:
        final = self.state.final(timing, now, with_context=self._keep_ids)
        return self._writer.chunk(self.timestamp, chunk, final)

    def add_prompt_ids(self, ids: list[int]) -> None:
        if self._keep_ids:
            self.state.prompt_ids = ids

    def add_usage(self, event: api.VllmEvent) -> None:
        self.begun = True
        self.state.tokens = event.usage
        self.state.metrics = event.metrics or self.state.metrics

    def add(self, choice: api.VllmChoice, now: int) -> None:
        """Raises Aborted and InvalidToolCall. `now`: monotonic nanoseconds."""
        finish_reason = choice.finish_reason
        if finish_reason is not None and finish_reason in _ABORTED:
            raise Aborted(_ABORTED[finish_reason])
        delta = choice.delta
        text = (delta.content if delta is not None else choice.text) or ""
        if text:
            state = self.state
            if not state.first:
                state.first = now
                self.begun = True
            state.last = now
            if (
                self._plain_text
                and finish_reason is None
                and choice.token_ids is None
                and choice.logprobs is None
                and (
                    delta is None
                    or (delta.reasoning is None and delta.tool_calls is None and delta.reasoning_content is None)
                )
            ):
                if self._stream:
                    self._lines.append(self._writer.text(self.timestamp, text))
                else:
                    self._buffer.texts.append(text)
                self.state.events += 1
                return
        self._add_rich(choice, text, now)

    def _add_rich(self, choice: api.VllmChoice, text: str, now: int) -> None:
        thinking = ""
        if (delta := choice.delta) is not None:
            reasoning = delta.reasoning or delta.reasoning_content or ""
            if self._all_content and reasoning:
                text = reasoning + text
                self._touch(now)
            else:
                thinking = self._stripped_thinking(reasoning, now)
            if delta.tool_calls:
                self.state.tool_calls.add(delta.tool_calls)
                self._touch(now)
        if self._think_tags is not None:
            tagged, text = self._think_tags.split(text)
            if choice.finish_reason is not None:
                last_thinking, last_text = self._think_tags.rest()
                tagged, text = tagged + last_thinking, text + last_text
            thinking = self._stripped_thinking(tagged, now)
        if text and self._strip_content:
            text = text.lstrip()
            self._strip_content = not text
            self._plain_text = not self._strip_content and self._think_tags is None
        entries = self._entries(choice, now)
        if self._keep_ids:
            self._collect_ids(choice)
        if text and self._stream and not (thinking or entries):
            self._lines.append(self._writer.text(self.timestamp, text))
        elif text or thinking or entries:
            self._emit(Chunk(text, thinking, None, entries))
        if choice.finish_reason is not None:
            self._touch(now)
            self._finish(choice.finish_reason)
        if self.begun:
            self.state.events += len(choice.token_ids or ()) or 1

    def _stripped_thinking(self, thinking: str, now: int) -> str:
        if not thinking:
            return ""
        self._touch(now)
        self._strip_content = True
        self._plain_text = False
        if self._strip_thinking:
            thinking = thinking.lstrip()
            self._strip_thinking = not thinking
        return thinking

    def _entries(self, choice: api.VllmChoice, now: int) -> list[LogprobEntry] | None:
        if choice.logprobs is None or self._logprobs is None:
            return None
        entries = translate_logprobs(choice.logprobs, self._logprobs)
        if _ends_in_stop_token(choice):
            del entries[-1:]
        if entries:
            self._touch(now)
        return entries or None

    def _touch(self, now: int) -> None:
        self.begun = True
        self.state.first = self.state.first or now
        self.state.last = now

    def _collect_ids(self, choice: api.VllmChoice) -> None:
        if choice.prompt_token_ids:
            self.state.prompt_ids = choice.prompt_token_ids
        ids = choice.token_ids
        if ids:
            self.state.ids.extend(ids[:-1] if _ends_in_stop_token(choice) else ids)

    def _finish(self, reason: str) -> None:
        self.state.finish_reason = reason
        if self.state.tool_calls and (calls := self.state.tool_calls.complete(truncated=reason == "length")):
            self._emit(Chunk(tool_calls=calls))

    def _emit(self, chunk: Chunk) -> None:
        if self._stream:
            self._lines.append(self._writer.chunk(self.timestamp, chunk))
        else:
            self._buffer.add(chunk)


def _ends_in_stop_token(choice: api.VllmChoice) -> bool:
    """True if the last token is the end mark, which `context` and `logprobs` omit."""
    return choice.finish_reason in ("stop", "tool_calls") and not isinstance(choice.stop_reason, str)
