"""Streams of /v1/chat/completions and /v1/completions."""

from __future__ import annotations

from vllama_pool.router.protocol.error_bodies import openai_error
from vllama_pool.router.protocol.json_lines import encode
from vllama_pool.router.protocol.vllm import api, errors
from vllama_pool.router.protocol.vllm.event_stream import DONE, ENDED, INVALID_EVENT, EventStream
from vllama_pool.router.protocol.vllm.model_name import name_field, with_model
from vllama_pool.router.protocol.vllm.sse import payloads
from vllama_pool.router.protocol.vllm.text_frame import TextFrame, frame_of
from vllama_pool.router.protocol.vllm.whole_answer import ABANDONED, STOPPED, both_reasonings

_LONG = 4
"""Events after which more will come, so that a frame saves time."""
_AGAIN = 16
"""Events after which a frame is sought again, such as while the model thinks."""
_DONE_EVENT = b"data: [DONE]\n\n"


class ChunkStream(EventStream):
    """Ends with [DONE], also if the worker leaves it out after the last choice has finished."""

    marks = (b'"usage"', b'"error"', b"[DONE]", b'"finish_reason":"')

    __slots__ = (*("_choices", "_finished", "_frame", "_include_usage", "_named", "_prefix", "_reads_all", "_seek_at"),)

    def __init__(self, name: str, choices: int, include_usage: bool) -> None:
        """`choices`: their number. `include_usage`: the client asked for the event with the usage."""
        super().__init__(name)
        self._choices = choices
        self._include_usage = include_usage
        self._finished: set[int] = set()
        self._prefix = self._named = b""
        """Begin of each event, up to the model's name, and its replacement."""
        self._reads_all = False
        """The name has to be replaced, and the events do not begin as vLLM's."""
        self._frame: TextFrame | None = None
        """Of events that hold nothing but text, which pass fastest."""
        self._seek_at = _LONG
        """Count of events at which the frame is sought."""

    def feed(self, data: bytes) -> bytes:
        frame = self._frame
        if frame is not None and not self._over and not self._within_event and (count := frame.count(data)):
            self._events += count
            return data if self._prefix == self._named else data.replace(self._prefix, self._named)
        return super().feed(data)

    def passed(self, data: bytes, count: int) -> bytes | None:
        if self._events >= self._seek_at and not self._reads_all and (events := payloads(data)):
            self._seek_at = self._events + _AGAIN
            self._frame = frame_of(events[-1]) or self._frame
        if self._prefix != self._named:
            if data.count(self._prefix) != count:
                return None
            data = data.replace(self._prefix, self._named)
        elif self._reads_all:
            return None
        return both_reasonings(data)

    def read(self, event: bytes, payload: bytes) -> bytes:
        try:
            chunk = api.decode_chunk(payload)
        except api.INVALID_JSON:
            if payload == DONE:
                return self._on_done_mark()
            self.set_failure(502, INVALID_EVENT)
            return b""
        if chunk.error is not None:
            self.set_failure(errors.event_status(chunk.error), errors.explain_event(chunk.error))
            return b""
        if chunk.usage is not None:
            self.prompt_tokens, self.tokens = chunk.usage.prompt_tokens, chunk.usage.completion_tokens or 0
            if not chunk.choices and not self._include_usage:
                return b""
        for choice in chunk.choices or ():
            self._read_choice(choice)
        return self._with_name(event, payload, chunk.model) if self.failure is None else b""

    def end(self) -> bytes:
        return self._on_done_mark() if len(self._finished) >= self._choices else b""

    def error_event(self, status: int, text: str) -> bytes:
        return b"data: %b\n\n" % encode(openai_error(status, text))

    def _on_done_mark(self) -> bytes:
        if len(self._finished) < self._choices:
            self.set_failure(502, ENDED)
            return b""
        self.set_done()
        return _DONE_EVENT

    def _read_choice(self, choice: api.VllmChoice) -> None:
        reason, delta = choice.finish_reason, choice.delta
        if reason is not None:
            if reason in ABANDONED:
                self.set_failure(ABANDONED[reason], STOPPED)
                return
            self._finished.add(choice.index)
            self.reason = self.reason or reason
        content = choice.text if delta is None else delta.content or delta.reasoning or delta.tool_calls
        if content:
            self._events += 1
        if content or reason is not None:
            self.begun = True

    def _with_name(self, event: bytes, payload: bytes, served: str) -> bytes:
        if not self._prefix and served:
            before, found, _ = event.partition(name_field(served))
            if found and before.count(b"{") == 1:
                self._prefix, self._named = before + found, before + name_field(self.name)
        if served != self.name:
            if self._prefix and event.startswith(self._prefix):
                event = self._named + event[len(self._prefix) :]
            else:
                self._reads_all = not self._prefix
                event = b"data: %b\n\n" % with_model(payload, served, self.name)
        return both_reasonings(event)
