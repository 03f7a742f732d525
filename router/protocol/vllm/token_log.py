"""Keeps the events of an answer, so that another worker can continue it.

Nothing is decoded until the worker is lost. Reads are kept as they are, and packed many at a time: the bytes that all
events of a stream begin with are kept once. Token ids that the client must not see are removed from the events.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from operator import itemgetter
from typing import ClassVar

from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.sse import EventSplitter, EventTooLong, is_whole, payloads
from vllama_pool.router.protocol.vllm.text_frame import IdsFrame, ids_frame_of

MAX_LOG = 4 * 2**20
"""Bytes of events kept: some 40,000 tokens. A longer answer is not continued."""
MANY = 64
"""Reads that are packed at once."""
LONG = 4
"""Events after which more will come, so that a frame saves time."""
AGAIN = 16
"""Events after which a frame is sought again, if one had none."""
_BETWEEN = b"\0"
"""Between the packed reads. JSON escapes it."""
_CHOICES = b'"choices":['
_ANY_IDS = re.compile(rb'"(prompt_)?token_ids"\s*:\s*\[[0-9,\s]*\]')
"""In JSON, the quotes of a text are escaped, so this is always a field."""
_NAME, _FIELD, _NULL = b'token_ids"', b'token_ids":[', b'token_ids":null'
"""Of the prompt's ids too. In JSON, the quotes of a text are escaped, so these are always fields."""
_DONE = b"[DONE]"


@dataclass(frozen=True, slots=True)
class Progress:
    """An answer as far as it has arrived."""

    prompt: tuple[int, ...]
    """Token ids."""
    ids: tuple[int, ...]
    """Of the answer."""
    text: str
    """Content that the worker has sent; it may lag behind the ids."""
    reasoning: str
    finish: str | None
    head: bytes
    """A JSON object with the id, the type, the time and the model of the events."""
    is_chat: bool


class TokenLog:
    """Belongs to one exchange."""

    continues: ClassVar[bool] = False

    __slots__ = ("_begin", "_packed", "_reads", "_size", "overflowed")

    def __init__(self) -> None:
        self._reads: list[bytes] = []
        self._packed: list[tuple[bytes, bytes]] = []
        """Earlier reads: their common begin, and the rest of each. The begin is b"" where they have none."""
        self._size = 0
        """Of what is packed, in bytes."""
        self._begin = b""
        """Of each event; b"" until it is known."""
        self.overflowed = False

    def feed(self, data: bytes) -> bytes:
        """Return the bytes for the translator."""
        reads = self._reads
        reads.append(data)
        if len(reads) >= MANY:
            self._pack()
        return data

    def progress(self) -> Progress | None:
        """Return the answer so far; None if its tokens are not known."""
        if self.overflowed:
            return None
        prompt: list[int] = []
        ids: list[int] = []
        texts: list[str] = []
        reasonings: list[str] = []
        finish: str | None = None
        head, is_chat = b"", False
        for payload in self._payloads():
            if payload == _DONE:
                continue
            try:
                event = api.decode_first_event(payload)
            except api.INVALID_JSON:
                return None
            prompt = event.prompt_token_ids or prompt
            for choice in event.choices or ():
                if choice.index:
                    return None
                head = head or payload
                prompt = choice.prompt_token_ids or prompt
                delta = choice.delta
                text = choice.text if delta is None else delta.content
                is_chat = is_chat or delta is not None
                if choice.token_ids is None and (text or choice.finish_reason):
                    return None
                ids += choice.token_ids or ()
                texts.append(text or "")
                if delta is not None:
                    if delta.tool_calls:
                        return None
                    reasonings.append(delta.reasoning or delta.reasoning_content or "")
                finish = finish or choice.finish_reason
        if not prompt:
            return None
        return Progress(tuple(prompt), tuple(ids), "".join(texts), "".join(reasonings), finish, head, is_chat)

    def _payloads(self) -> list[bytes]:
        self._pack()
        packed = [begin + rest.replace(_BETWEEN, begin) if begin else rest for begin, rest in self._packed]
        try:
            return payloads(EventSplitter().feed(b"".join(packed)))
        except EventTooLong:
            return []

    def _pack(self) -> None:
        """Keep the reads without the begin of events, if each begins with one."""
        reads = self._reads
        data = b"".join(reads)
        begin = self._begin = self._begin or _begin_of(data)
        parts = list(map(itemgetter(slice(len(begin), None)), reads))
        reads.clear()
        if begin and begin + begin.join(parts) == data and data.find(_BETWEEN) < 0:
            data = _BETWEEN.join(parts)
        else:
            begin = b""
        self._size += len(data)
        if self.overflowed or self._size > MAX_LOG:
            self.overflow()
        elif data:
            self._packed.append((begin, data))

    def overflow(self) -> None:
        self.overflowed = True
        self._packed.clear()
        self._reads.clear()


class HidingLog(TokenLog):
    """Removes the ids from the events, as if nobody had asked for them."""

    __slots__ = ("_frame", "_seek_at", "_splitter", "_within_event")

    def __init__(self) -> None:
        super().__init__()
        self._frame: IdsFrame | None = None
        """Of events with nothing but text and ids."""
        self._seek_at = LONG
        """Events until the frame is sought."""
        self._splitter: EventSplitter | None = None
        self._within_event = False

    def feed(self, data: bytes) -> bytes:
        """Return whole events for the translator."""
        reads = self._reads
        reads.append(data)
        if len(reads) >= MANY:
            self._pack()
        frame = self._frame
        if frame is not None and not self._within_event and (hidden := frame.hide_ids(data)) is not None:
            return hidden
        return self._without_ids(data)

    def _without_ids(self, data: bytes) -> bytes:
        if self._within_event or not is_whole(data):
            data = self._split(data)
        if data.find(b"token_ids") < 0:
            return data
        if self._frame is None:
            self._seek_at -= 1
            if self._seek_at <= 0:
                self._seek_at = AGAIN
                self._frame = ids_frame_of(payloads(data)[-1])
        return _hidden(data)

    def _split(self, data: bytes) -> bytes:
        splitter = self._splitter = self._splitter or EventSplitter()
        try:
            events = splitter.feed(data)
        except EventTooLong:
            self.overflow()
            self._within_event = False
            return data
        self._within_event = splitter.within_event
        return events


def _hidden(data: bytes) -> bytes:
    """Return whole events without their ids."""
    first, *pieces = data.split(_FIELD)
    if data.count(_NAME) != len(pieces) + data.count(_NULL):
        return _ANY_IDS.sub(rb'"\1token_ids":null', data)  # spelled in another way than vLLM's
    out = [first]
    for piece in pieces:
        _, end, rest = piece.partition(b"]")
        out += (_NULL, rest) if end else (_FIELD, piece)
    return b"".join(out)


def _begin_of(data: bytes) -> bytes:
    """Return the first event's bytes up to the choices; b"" if it does not begin as vLLM's."""
    begin, found, _ = data.partition(_CHOICES)
    if found and begin.startswith(b"data: {") and begin.find(b"\n") < 0 and begin.find(b"prompt_token_ids") < 0:
        return begin + found
    return b""
