"""Keeps the events of an answer, so that another worker can continue it.

Nothing is decoded until the worker is lost. Reads are kept as they are, and packed many at a time: the bytes that all
events of a stream begin with are kept once. Of plain tokens, nothing else is kept than what differs between them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from operator import itemgetter
from typing import ClassVar

from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.sse import EventSplitter, EventTooLong, payloads
from vllama_pool.router.protocol.vllm.text_frame import IdsFrame

MAX_LOG = 4 * 2**20
"""Bytes of events kept: some 40,000 tokens. A longer answer is not continued."""
MANY = 64
"""Reads that are packed at once."""
_BETWEEN = b"\0"
"""Between the packed reads. JSON escapes it."""
_CHOICES = b'"choices":['
_ANY_IDS = re.compile(rb'"(prompt_)?token_ids"\s*:\s*\[[0-9,\s]*\]')
"""In JSON, the quotes of a text are escaped, so this is always a field."""
_NAME, _NULL = b'token_ids"', b'token_ids":null'
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

    __slots__ = ("_begin", "_packed", "_reads", "_size", "frame", "overflowed", "tokens")

    def __init__(self) -> None:
        self.tokens: list[bytes] = []
        """Insides of the frame's events, later than all reads. The stream appends them, and packs many at a time."""
        self.frame: IdsFrame | None = None
        self._reads: list[bytes] = []
        self._packed: list[tuple[bytes, bytes, bytes]] = []
        """Earlier reads: their common begin, what differs, and their common end. Begin and end are b"" where they have
        none."""
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

    def pack_tokens(self) -> None:
        tokens, frame = self.tokens, self.frame
        if not tokens or frame is None:
            return
        self._pack()
        data = _BETWEEN.join(tokens)
        if data.count(_BETWEEN) == len(tokens) - 1:
            self._keep(frame.begin, data, frame.end)
        else:
            self._keep(b"", b"".join(b"".join((frame.begin, each, frame.end)) for each in tokens), b"")
        tokens.clear()

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
        self.pack_tokens()
        reads = [
            b"".join((begin, data.replace(_BETWEEN, end + begin), end)) if begin else data
            for begin, data, end in self._packed
        ]
        try:
            return payloads(EventSplitter().feed(b"".join(reads)))
        except EventTooLong:
            return []

    def _pack(self) -> None:
        """Keep the reads without the begin of events, if each begins with one."""
        reads = self._reads
        if not reads:
            return
        data = b"".join(reads)
        begin = self._begin = self._begin or _begin_of(data)
        parts = list(map(itemgetter(slice(len(begin), None)), reads))
        reads.clear()
        if begin and begin + begin.join(parts) == data and data.find(_BETWEEN) < 0:
            data = _BETWEEN.join(parts)
        else:
            begin = b""
        self._keep(begin, data, b"")

    def _keep(self, begin: bytes, data: bytes, end: bytes) -> None:
        self._size += len(data)
        if self.overflowed or self._size > MAX_LOG:
            self.overflowed = True
            self._packed.clear()
        elif data:
            self._packed.append((begin, data, end))


class KeepsLog:
    """A stream translator that keeps the log of its answer itself."""

    __slots__ = ()

    log: TokenLog


def without_ids(data: bytes) -> bytes:
    """Return whole events without their ids."""
    first, *pieces = data.split(_NAME)
    out = [first]
    for piece in pieces:
        if piece[:2] == b":[":
            _, end, rest = piece.partition(b"]")
            out += (_NULL, rest) if end else (_NAME, piece)
        elif piece[:5] == b":null":
            out += (_NAME, piece)
        else:  # spelled in another way than vLLM's
            return _ANY_IDS.sub(rb'"\1token_ids":null', data)
    return b"".join(out)


def _begin_of(data: bytes) -> bytes:
    """Return the first event's bytes up to the choices; b"" if it does not begin as vLLM's."""
    begin, found, _ = data.partition(_CHOICES)
    if found and begin.startswith(b"data: {") and begin.find(b"\n") < 0 and begin.find(b"prompt_token_ids") < 0:
        return begin + found
    return b""
