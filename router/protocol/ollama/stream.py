"""Stream translator of /api/chat and /api/generate."""

from __future__ import annotations

from vllama_pool.router.protocol.clock import TimestampFormatter
from vllama_pool.router.protocol.json_lines import encode
from vllama_pool.router.protocol.ollama.answer_builder import Aborted, AnswerBuilder, InvalidAnswer
from vllama_pool.router.protocol.operation import Clock, StreamFailure, Timing, Usage
from vllama_pool.router.protocol.vllm import api, errors
from vllama_pool.router.protocol.vllm.sse import EventSplitter, EventTooLong, is_whole, payloads
from vllama_pool.router.protocol.vllm.text_frame import IdsFrame, TextFrame, frame_of, ids_frame_of

RUNNER_ERROR = "an error was encountered while running the model: "
"""Prefix of errors (R163)."""
_DONE = b"[DONE]"
_LONG = 8
"""Tokens after which more will come, so that a frame of the texts saves time."""
_AGAIN = 16
"""Tokens after which a frame is sought again, if an event had none."""


class TextTranslator:
    __slots__ = (
        "_answer",
        "_ended",
        "_frame",
        "_over",
        "_seek_at",
        "_splitter",
        "_stream",
        "_time_ns",
        "_timestamps",
        "_timing",
        "_within_event",
        "cut_off",
        "done",
        "failure",
    )

    def __init__(
        self, answer: AnswerBuilder, timing: Timing, clock: Clock, stream: bool, timestamps: TimestampFormatter
    ) -> None:
        self._answer = answer
        self._timing = timing
        self._time_ns = clock.time_ns
        self._stream = stream
        self._splitter: EventSplitter | None = None
        self._within_event = False
        self._frame: TextFrame | IdsFrame | None = None
        self._seek_at = _LONG
        """Tokens at which the frame is sought."""
        self._timestamps = timestamps
        self._ended = False
        self._over = False
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
    def progress(self) -> int:
        return self._answer.events

    @property
    def usage(self) -> Usage:
        return self._answer.usage

    def feed(self, data: bytes) -> bytes:
        if self._over:
            return b""
        answer = self._answer
        if self._stream:
            time_ns = self._time_ns  # a local is called faster than an attribute
            answer.set_time(self._timestamps.format(time_ns()))
        frame = self._frame
        if frame is not None and answer.plain and not self._within_event and (texts := frame.texts(data)) is not None:
            if answer.keeps_ids:
                answer.keep_ids_of(data)
            return answer.add_texts(texts)
        if self._within_event or not is_whole(data):
            data = self._split(data)
        events = payloads(data)
        lines = self._translate(events)
        if frame is None and answer.events >= self._seek_at and answer.plain and events and not self._over:
            self._seek_at = answer.events + _AGAIN
            self._frame = frame_of(events[-1]) or ids_frame_of(events[-1])
        return lines

    def _translate(self, events: list[bytes]) -> bytes:
        """Return the lines of events, if any. One loop instead of a call per event."""
        answer = self._answer
        lines = b""
        for payload in events:
            try:
                event = api.decode_event(payload)
            except api.INVALID_JSON:
                lines += self._translate_mark(payload)
                break
            if event.choices:
                try:
                    lines += answer.add(event.choices[0])
                except Aborted as error:
                    self._fail(StreamFailure(error.status, RUNNER_ERROR + "the worker stopped the request"))
                except InvalidAnswer as error:
                    lines += error.lines
                    self._fail(StreamFailure(500, f"{RUNNER_ERROR}{error}", model_at_fault=True))
            if answer.cut_off:
                self.cut_off = True
                lines += self._complete()
            elif event.usage is not None:
                answer.add_usage(event)
                if answer.finish_reason is not None and self.failure is None:
                    lines += self._complete()
            elif event.error is not None:
                self._fail(StreamFailure(errors.event_status(event.error), errors.explain_event(event.error)))
            elif answer.keeps_ids and answer.events <= 1:
                self._add_prompt_ids(payload)
            if self._over:
                break
        return lines

    def _add_prompt_ids(self, payload: bytes) -> None:
        if ids := api.decode_first_event(payload).prompt_token_ids:
            self._answer.add_prompt_ids(ids)

    def _translate_mark(self, payload: bytes) -> bytes:
        """Translate an event that is not JSON."""
        if payload == _DONE:
            return self._on_done_mark()
        self._fail(StreamFailure(502, RUNNER_ERROR + "the worker sent an invalid event"))
        return b""

    def finish(self) -> bytes:
        if self._ended:
            return b""
        self._answer.set_time(self._timestamps.format(self._time_ns()))
        rest = b""
        if self._splitter is not None and not self._over:
            rest = self._translate([each for each in payloads(self._splitter.rest()) if _is_complete(each)])
        if not self.done and self._answer.finish_reason is not None and self.failure is None:
            rest += self._complete()
        if not self.done:
            return rest + self.fail(self.failure.text if self.failure else "unexpected EOF")
        if self._stream:
            return rest
        self._ended = self._over = True
        return self._answer.final(self._timing)

    def fail(self, text: str) -> bytes:
        if self._ended:
            return b""
        self._ended = self._over = True
        line = encode({"error": text if text.startswith(RUNNER_ERROR) else RUNNER_ERROR + text})
        return line + b"\n" if self._stream else line

    def restart(self, dropped: int) -> None:
        """Go on with another worker's events. `dropped`: tokens at the end that are generated again."""
        self.failure = self._splitter = self._frame = None
        self._over = self._within_event = False
        self._seek_at = self._answer.events
        self._answer.drop_ids(dropped)

    def _split(self, data: bytes) -> bytes:
        splitter = self._splitter = self._splitter or EventSplitter()
        try:
            events = splitter.feed(data)
        except EventTooLong:
            self._fail(StreamFailure(502, RUNNER_ERROR + "the worker sent an event that is too long"))
            return b""
        self._within_event = splitter.within_event
        return events

    def _on_done_mark(self) -> bytes:
        """Complete a finished answer even without usage."""
        if self._answer.finish_reason is not None:
            return self._complete()
        self._fail(StreamFailure(500, RUNNER_ERROR + "unexpected EOF"))
        return b""

    def _fail(self, failure: StreamFailure) -> None:
        self.failure = failure
        self._over = True

    def _complete(self) -> bytes:
        """Return the last line when streaming."""
        self.done = self._over = self._answer.begun = True
        if not self._stream:
            return b""
        self._ended = True
        return self._answer.final(self._timing)


def _is_complete(payload: bytes) -> bool:
    """True if the last event lacks only its line end."""
    try:
        api.decode_event(payload)
    except api.INVALID_JSON:
        return payload == _DONE
    return True
