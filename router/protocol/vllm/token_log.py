"""Keeps the events of an answer, so that another worker can continue it.

Nothing is decoded until the worker is lost. The bytes that all events of a stream begin with are kept once. Token ids
that the client did not ask for are removed, so that events look as if nobody had asked for them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.sse import EventSplitter, EventTooLong, is_whole, payloads

MAX_LOG = 4 * 2**20
"""Bytes of events kept: some 40,000 tokens. A longer answer is not continued."""
_IDS = b'"token_ids":['
_NO_IDS = b'"token_ids":null'
_CHOICES = b'"choices":['
_ANY_IDS = re.compile(rb'"(prompt_)?token_ids":\s*\[[0-9,\s]*\]')
"""In JSON, the quotes of a text are escaped, so this is always a field."""
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

    __slots__ = ("_log", "_prefix", "_skip", "_splitter", "_strips", "_within_event", "overflowed")

    def __init__(self, *, strips: bool) -> None:
        """`strips`: remove the ids from the events."""
        self._strips = strips
        self._log = bytearray()
        self._prefix = b""
        """Begin of each event; b"" until it is known."""
        self._skip = 0
        self._splitter: EventSplitter | None = None
        self._within_event = False
        self.overflowed = False

    def feed(self, data: bytes) -> bytes:
        """Return whole events for the translator."""
        if self._within_event or not is_whole(data):
            data = self._split(data)
            if not data:
                return data
        prefix = self._prefix
        if prefix and data.startswith(prefix):
            self._log += data[self._skip :]
            if len(self._log) > MAX_LOG:
                self._overflow()
        elif not self.overflowed:
            self._keep(data)
        if not self._strips:
            return data
        before, found, rest = data.partition(_IDS)
        if found:
            end = rest.find(b"]") + 1
            if _IDS not in rest and end and b'"prompt_token_ids":[' not in before:
                return before + _NO_IDS + rest[end:]
        elif b"token_ids" not in data:
            return data
        return _ANY_IDS.sub(rb'"\1token_ids":null', data)

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
                event = api.decode_event(payload)
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
        events = []
        for block in bytes(self._log).split(b"\n\n"):
            if block:
                events += payloads((block if block.startswith(b"data:") else self._prefix + block) + b"\n\n")
        return events

    def _keep(self, data: bytes) -> None:
        self._log += data
        if len(self._log) > MAX_LOG:
            self._overflow()
            return
        if not self._prefix:
            begin, found, _ = data.partition(_CHOICES)
            if found and begin.startswith(b"data: {") and b"\n" not in begin and b"prompt_token_ids" not in begin:
                self._prefix, self._skip = begin, len(begin)

    def _overflow(self) -> None:
        self.overflowed = True
        self._log.clear()
        self._prefix = b""

    def _split(self, data: bytes) -> bytes:
        splitter = self._splitter = self._splitter or EventSplitter()
        try:
            events = splitter.feed(data)
        except EventTooLong:
            self.overflowed = True
            self._within_event = False
            return data
        self._within_event = splitter.within_event
        return events
