"""Streams whose token ids are for the router alone."""

from __future__ import annotations

import sys

from vllama_pool.router.protocol.openai.chunks import ChunkStream
from vllama_pool.router.protocol.vllm.event_stream import EventStream
from vllama_pool.router.protocol.vllm.sse import is_whole, payloads
from vllama_pool.router.protocol.vllm.text_frame import IdsFrame, are_ids, ids_frame_of
from vllama_pool.router.protocol.vllm.token_log import MANY, KeepsLog, TokenLog, without_ids

_LINE_FEED = b"\n"[0]
_LONG = 4
"""Events after which more will come, so that a frame saves time."""
_AGAIN = 16
"""Events after which a frame is sought again, if one had none."""


class HidingStream(ChunkStream, KeepsLog):
    """Removes the ids, as if nobody had asked for them, and keeps the events for a continuation.

    A plain token is checked, logged and hidden in one step, because each step would search and compare the bytes again.
    """

    __slots__ = (
        *("_after", "_before", "_continues", "_ids_frame", "_plain", "_seek_ids_at", "_tokens"),
        "log",
    )

    def __init__(self, name: str, choices: int, include_usage: bool) -> None:
        super().__init__(name, choices, include_usage)
        self._seek_at = sys.maxsize  # the frame of events with ids gives that of events without
        self.log = TokenLog()
        self._tokens = self.log.tokens
        self._ids_frame: IdsFrame | None = None
        """Of events with nothing but text and ids."""
        self._plain: IdsFrame | None = None
        """The same; None unless the next read begins an event that counts."""
        self._before = self._after = b""
        """Of the text, in events for the client."""
        self._seek_ids_at = _LONG
        """Count of events at which the frame is sought."""
        self._continues = False
        """Another worker goes on, whose events have no ids and are not logged."""

    def feed(self, data: bytes) -> bytes:
        frame = self._plain
        if frame is not None:
            inside = data[frame.inside]
            if frame.begin + inside + frame.end == data:
                text, _, rest = inside.partition(b'"')
                ids = rest.removeprefix(frame.bracket)
                # `removeprefix` returns the same object if there is nothing to remove.
                if ids is not rest and (ids.isdigit() or are_ids(ids)) and _LINE_FEED not in text:
                    tokens = self._tokens
                    tokens.append(inside)
                    if len(tokens) >= MANY:
                        self.log.pack_tokens()
                    self._events += 1
                    return b"".join((self._before, text, self._after))
                if _LINE_FEED in inside and (hidden := self._several(frame, data)):
                    return hidden
        return self._feed_any(data)

    def fail(self, text: str) -> bytes:
        self._plain = None
        return super().fail(text)

    def restart(self, dropped: int) -> None:
        super().restart(dropped)
        self._plain = None
        self._continues = True
        self._seek_at = self._events + _LONG

    def _several(self, frame: IdsFrame, data: bytes) -> bytes | None:
        """As `feed`, of a read that begins and ends as plain events. None if there is anything else between."""
        insides = [event[frame.within] for event in data.split(b"\n\n")[:-1]]
        # Joined again and compared at once, which is faster than a comparison for each event.
        if b"".join((frame.begin, (frame.end + frame.begin).join(insides), frame.end)) != data:
            return None
        texts, ids, bracket = [], [], frame.bracket
        for inside in insides:
            text, _, rest = inside.partition(b'"')
            each = rest.removeprefix(bracket)
            if each is rest:
                return None
            texts.append(text)
            ids.append(each)
        if not are_ids(b",".join(ids)) or _LINE_FEED in b"".join(texts):
            return None
        tokens = self._tokens
        tokens += insides
        if len(tokens) >= MANY:
            self.log.pack_tokens()
        self._events += len(texts)
        return b"".join((self._before, (self._after + self._before).join(texts), self._after))

    def _feed_any(self, data: bytes) -> bytes:
        if self._continues:
            return ChunkStream.feed(self, data)
        log = self.log
        if self._tokens:
            log.pack_tokens()
        log.feed(data)
        if self._over:
            return b""
        if self._plain is not None and (hidden := self._plain.hide_ids_without_text(data)) is not None:
            self._events += 1
            return self._named + hidden[len(self._prefix) :]
        self._plain = None
        if not self._within_event and is_whole(data):
            out = ChunkStream.feed(self, self._hidden(data))
        else:
            out = EventStream.feed(self, data)  # `_split` hides the ids
        if not (self._within_event or self._over):
            self._plain = self._ids_frame
        return out

    def _hidden(self, data: bytes) -> bytes:
        if data.find(b"token_ids") < 0:
            return data
        frame = self._ids_frame
        if frame is not None:
            hidden = frame.hide_ids(data)
            return without_ids(data) if hidden is None else hidden
        if self._events >= self._seek_ids_at:
            self._seek_ids_at = self._events + _AGAIN
            self._set_frame(ids_frame_of(payloads(data)[-1]))
        return without_ids(data)

    def _set_frame(self, frame: IdsFrame | None) -> None:
        """Use a frame, unless the model's name has to be replaced at another place of its events."""
        if frame is None or self._reads_all or not frame.begin.startswith(self._prefix):
            return
        self._ids_frame, self._frame = frame, frame.hidden
        self.log.frame = frame
        self._before = self._named + frame.begin[len(self._prefix) :]
        self._after = b'"%bnull%b' % (frame.bracket[:-1], frame.end[1:])

    def _split(self, data: bytes) -> bytes:
        events = super()._split(data)
        return events if self._continues else self._hidden(events)

    def _rest(self) -> bytes:
        event = super()._rest()
        return event if self._continues else without_ids(event)
