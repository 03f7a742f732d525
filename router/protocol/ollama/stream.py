"""Stream translator of /api/chat and /api/generate."""

from __future__ import annotations

import msgspec

from vllama_pool.router.protocol.clock import TimestampFormatter
from vllama_pool.router.protocol.json_lines import encode
from vllama_pool.router.protocol.ollama.answer_builder import Aborted, AnswerBuilder
from vllama_pool.router.protocol.operation import Clock, StreamFailure, Timing, Usage
from vllama_pool.router.protocol.vllm import api, errors
from vllama_pool.router.protocol.vllm.sse import EventSplitter, EventTooLong
from vllama_pool.router.protocol.vllm.tool_calls import InvalidToolCall

RUNNER_ERROR = "an error was encountered while running the model: "
"""Prefix of errors (R163)."""
_DONE = b"[DONE]"
_INVALID = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class TextTranslator:
    __slots__ = (
        "_answer",
        "_clock",
        "_ended",
        "_splitter",
        "_stream",
        "_timestamps",
        "_timing",
        "cut_off",
        "done",
        "failure",
    )

    def __init__(self, answer: AnswerBuilder, timing: Timing, clock: Clock, *, stream: bool) -> None:
        self._answer = answer
        self._timing = timing
        self._clock = clock
        self._stream = stream
        self._splitter = EventSplitter()
        self._timestamps = TimestampFormatter()
        self._ended = False
        self.done = False
        self.cut_off = False
        self.failure: StreamFailure | None = None

    @property
    def ready(self) -> bool:
        return self._answer.begun if self._stream else self.done

    @property
    def begun(self) -> bool:
        return self._answer.begun

    @property
    def usage(self) -> Usage:
        return self._answer.state.usage

    def feed(self, data: bytes) -> bytes:
        try:
            payloads = self._splitter.feed(data)
        except EventTooLong:
            self._fail(502, "the worker sent an event that is too long")
            return b""
        return self._translate(payloads)

    def finish(self) -> bytes:
        if self._ended:
            return b""
        rest = self._translate([payload for payload in self._splitter.rest() if _is_complete(payload)])
        if not self.done and self._answer.state.finish_reason is not None and self.failure is None:
            self._complete()
            rest += self._answer.lines()
        if not self.done:
            return rest + self.fail(self.failure.text if self.failure else "unexpected EOF")
        if self._stream:
            return rest
        self._ended = True
        self._answer.timestamp = self._timestamps(self._clock.time_ns())
        return self._answer.whole(self._timing, self._clock.monotonic_ns())

    def fail(self, text: str) -> bytes:
        if self._ended:
            return b""
        self._ended = True
        line = encode({"error": text if text.startswith(RUNNER_ERROR) else RUNNER_ERROR + text})
        return line + b"\n" if self._stream else line

    def _translate(self, payloads: list[bytes]) -> bytes:
        if not payloads or self.done or self.failure is not None or self._ended:
            return b""
        if self._stream:
            self._answer.timestamp = self._timestamps(self._clock.time_ns())
        now = self._clock.monotonic_ns()
        for payload in payloads:
            if payload == _DONE:
                self._on_done_mark()
            else:
                self._on_payload(payload, now)
            if self.done or self.failure is not None:
                break
        return self._answer.lines()

    def _on_done_mark(self) -> None:
        """Complete a finished answer even without usage."""
        if self._answer.state.finish_reason is not None:
            self._complete()
        else:
            self._fail(500, "unexpected EOF")

    def _on_payload(self, payload: bytes, now: int) -> None:
        try:
            event = api.decode_event(payload)
        except _INVALID:
            self._fail(502, "the worker sent an invalid event")
            return
        if event.choices:
            try:
                self._answer.add(event.choices[0], now)
            except Aborted as error:
                self._fail(error.status, "the worker stopped the request")
            except InvalidToolCall as error:
                self.failure = StreamFailure(500, f"{RUNNER_ERROR}{error}", model_at_fault=True)
        if self._answer.cut_off:
            self.cut_off = True
            self._complete()
        elif event.usage is not None:
            self._on_usage(event)
        elif event.error is not None:
            self.failure = StreamFailure(errors.event_status(event.error), errors.explain_event(event.error))
        elif event.prompt_token_ids:
            self._answer.add_prompt_ids(event.prompt_token_ids)

    def _on_usage(self, event: api.VllmEvent) -> None:
        self._answer.add_usage(event)
        if self._answer.state.finish_reason is not None and self.failure is None:
            self._complete()

    def _fail(self, status: int, text: str) -> None:
        self.failure = StreamFailure(status, RUNNER_ERROR + text)

    def _complete(self) -> None:
        self.done = self._answer.begun = True
        if self._stream:
            self._ended = True
            self._answer.end(self._timing, self._clock.monotonic_ns())


def _is_complete(payload: bytes) -> bool:
    """True if the last event lacks only its line end."""
    try:
        api.decode_event(payload)
    except _INVALID:
        return payload == _DONE
    return True
