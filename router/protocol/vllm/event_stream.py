"""Passes a worker's server-sent events on to the client.

Bytes pass as they are, but for the model's name. An event is read until the first content, and where its text may be
more than content.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import msgspec

from vllama_pool.router.protocol.operation import StreamFailure, Usage
from vllama_pool.router.protocol.vllm.api import INVALID_JSON
from vllama_pool.router.protocol.vllm.sse import EventSplitter, EventTooLong, is_whole, payloads

DONE = b"[DONE]"
TOO_LONG = "the worker sent an event that is too long"
INVALID_EVENT = "the worker sent an invalid event"
ENDED = "the worker's answer ended before it was whole"


class EventStream(ABC):
    """A `StreamTranslator`. Subclasses read the events of one API."""

    cut_off = False
    marks: ClassVar[tuple[bytes, ...]]
    """Bytes of events that have to be read after the first content."""

    __slots__ = (
        *("_ended", "_events", "_over", "_splitter", "_within_event"),
        *("begun", "done", "failure", "name", "prompt_tokens", "reason", "tokens"),
    )

    def __init__(self, name: str) -> None:
        """`name`: of the model, as the client spelled it."""
        self.name = name
        self.begun = False
        self.done = False
        self.failure: StreamFailure | None = None
        self.prompt_tokens = 0
        self.tokens = 0
        """The worker's count, once it is known."""
        self.reason = ""
        self._events = 0
        """Of content; each has one token or more."""
        self._splitter: EventSplitter | None = None
        self._within_event = False
        self._over = False
        """Nothing more of the worker counts."""
        self._ended = False

    # for subclasses

    @abstractmethod
    def read(self, event: bytes, payload: bytes) -> bytes:
        """Return an event for the client, or nothing. Note what it means in the attributes."""

    @abstractmethod
    def passed(self, data: bytes, count: int) -> bytes | None:
        """Return `count` events of content for the client; None if they have to be read."""

    @abstractmethod
    def error_event(self, status: int, text: str) -> bytes: ...

    def end(self) -> bytes:
        """Return the rest of an answer whose stream has ended, and set `done` if it is complete."""
        return b""

    def set_failure(self, status: int, text: str) -> None:
        self.failure = StreamFailure(status, text)
        self._over = True

    def set_done(self) -> None:
        self.done = self.begun = self._over = True

    # the translator

    @property
    def ready(self) -> bool:
        return self.begun

    @property
    def progress(self) -> int:
        return self._events

    @property
    def usage(self) -> Usage:
        return Usage(self.prompt_tokens, self.tokens or self._events, self.reason)

    def feed(self, data: bytes) -> bytes:
        if self._over:
            return b""
        if self._within_event or not is_whole(data):
            data = self._split(data)
        if self.begun:
            for mark in self.marks:
                if mark in data:
                    break
            else:
                count = data.count(b"\n\n")
                # An event that ends otherwise is cut off, or garbage.
                passed = self.passed(data, count) if data.count(b"}\n\n") == count else None
                if passed is not None:
                    self._events += count
                    return passed
        return self._read_all(data)

    def finish(self) -> bytes:
        if self._ended:
            return b""
        rest = b""
        if self._splitter is not None and not self._over:
            rest = self._read_all(_complete(self._rest()))
        if not self.done and self.failure is None:
            rest += self.end()
        if not self.done:
            return rest + self.fail(self.failure.text if self.failure else ENDED)
        self._ended = True
        return rest

    def fail(self, text: str) -> bytes:
        if self._ended:
            return b""
        self._ended = self._over = True
        return self.error_event(self.failure.status if self.failure else 502, text)

    def restart(self, dropped: int) -> None:
        """Go on with another worker's events. `dropped`: tokens at the end that are generated again."""
        self.failure = self._splitter = None
        self._over = self._within_event = False

    def _read_all(self, data: bytes) -> bytes:
        events = []
        for block in data.split(b"\n\n")[:-1]:
            event = block + b"\n\n"
            for payload in payloads(event):
                events.append(self.read(event, payload))
            if self._over:
                break
        return b"".join(events)

    def _split(self, data: bytes) -> bytes:
        """Return whole events. The rest waits for the next read."""
        splitter = self._splitter = self._splitter or EventSplitter()
        try:
            events = splitter.feed(data)
        except EventTooLong:
            self.set_failure(502, TOO_LONG)
            return b""
        self._within_event = splitter.within_event
        return events

    def _rest(self) -> bytes:
        """Return an event that lacks its closing blank line, with it."""
        return self._splitter.rest() if self._splitter is not None else b""


def _complete(event: bytes) -> bytes:
    """Return the last event if it lacks only its line end."""
    for payload in payloads(event):
        try:
            msgspec.json.decode(payload)
        except INVALID_JSON:
            if payload != DONE:
                return b""
    return event
