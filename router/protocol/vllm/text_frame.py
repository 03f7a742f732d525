"""Texts of plain events, which differ in nothing else.

All but a few events of a stream are the same bytes around another text. Once these bytes are known, a read of any
number of such events is decoded at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from vllama_pool.router.protocol.vllm import api

_LINE_FEED, _CARRIAGE_RETURN, _QUOTE = b'\n\r"'
_decode_texts = msgspec.json.Decoder(list[str]).decode
_decode_text = msgspec.json.Decoder(str).decode
_IDS = b'"token_ids":['
_ANY_IDS = re.compile(rb'"token_ids":\[([0-9,]+)\]')
"""In JSON, the quotes of a text are escaped, so this is always a field."""
_NUMBER = re.compile(rb"[0-9]{1,18}")
_CONTENT = b'"content":'


class TextFrame:
    """The bytes before and after the text, a JSON string, in an event."""

    __slots__ = (
        *("_between", "_closing", "_end", "_opening", "_quoted", "_rest", "_single"),
        *("_start", "_text", "_texts", "_unquoted"),
    )

    def __init__(self, before: bytes, after: bytes) -> None:
        self._start = b"data: " + before
        self._end = after + b"\n\n"
        self._between = self._end + self._start
        self._opening = self._start + b'"'
        self._closing = b'"' + after
        self._rest = self._closing + b"\n\n"
        self._single = slice(len(self._opening), -len(self._rest))
        self._quoted = self._rest + self._opening
        """Between two texts without their quotes."""
        self._unquoted = slice(len(self._opening), -len(self._closing))
        self._text = slice(len(before), -len(after))
        self._texts = slice(len(self._start), -len(self._end))

    def count(self, data: bytes) -> int:
        """Return the number of events; 0 if the data is anything but such events, or a text has a quote.

        The texts are not read.
        """
        text = data[self._single]
        if _LINE_FEED not in text and self._opening + text + self._rest == data:
            return 0 if _QUOTE in text else 1
        *events, rest = data.split(b"\n\n")
        if rest or not events:
            return 0
        unquoted = self._unquoted
        texts = [event[unquoted] for event in events]
        # Joined again and compared at once: for many events, in two thirds of the time of a comparison for each.
        if b"".join((self._opening, self._quoted.join(texts), self._rest)) != data:
            return 0
        return 0 if _QUOTE in b"".join(texts) else len(texts)

    def texts(self, data: bytes) -> list[str] | None:
        """Return the text of each event; None if the data is anything but such events."""
        joined = data[self._texts]
        if self._start + joined + self._end != data:
            return None
        if _LINE_FEED not in joined:
            if _CARRIAGE_RETURN in joined:
                return None
            try:
                return [_decode_text(joined)]
            except api.INVALID_JSON:
                return None
        # The long separator would be found slowly, so the events are split at a short one, and compared afterwards.
        text = self._text
        parts = [event[text] for event in data[6:-2].split(b"\n\ndata: ")]
        return _decoded(parts) if self._between.join(parts) == joined else None


class IdsFrame:
    """The bytes before, between and after the text and the token ids of an event. The ids are not read."""

    __slots__ = (
        *("_bare", "_between", "_end", "_ids", "_middle", "_nulled", "_start", "_text"),
        *("begin", "bracket", "end", "hidden", "inside", "within"),
    )

    def __init__(self, before: bytes, middle: bytes, after: bytes) -> None:
        """`middle` ends before the ids' opening bracket, `after` begins with the closing one."""
        self.begin = b'data: %b"' % before
        """Up to the text's first character."""
        self.bracket = middle + b"["
        """From the text's closing quote, without it, up to the first id."""
        self.end = after + b"\n\n"
        """From the last id."""
        self.inside = slice(len(self.begin), -len(self.end))
        self.within = slice(len(self.begin), -len(after))
        """As `inside`, of an event without its blank line."""
        self.hidden = TextFrame(before, middle + b"null" + after[1:])
        """Of the same events without ids."""
        self._start = b"data: " + before
        self._bare = self._start.removesuffix(_CONTENT) + middle
        """An event without content, for a token whose text vLLM holds back."""
        self._middle = middle
        self._end = after + b"\n\n"
        self._nulled = b"null" + self._end[1:]
        self._between = self._end + self._start
        self._text = slice(len(self._start), -len(middle))
        self._ids = slice(-len(self._end))

    def texts(self, data: bytes) -> list[str] | None:
        """Return the text of each event; None if the data is anything but such events."""
        before, _, after = data.rpartition(b"[")
        ids = after[self._ids]
        if ids + self._end != after or not (ids.isdigit() or are_ids(ids)):
            return None
        text = before[self._text]
        if self._start + text + self._middle != before:
            return [""] if before == self._bare else None
        if _LINE_FEED in text:
            strings = self._several(data)
            return None if strings is None else _decoded(strings)
        if _CARRIAGE_RETURN in text:
            return None
        try:
            return [_decode_text(text)]
        except api.INVALID_JSON:
            return None

    def hide_ids(self, data: bytes) -> bytes | None:
        """Return events without their ids; None if the data is anything but such events."""
        before, _, after = data.rpartition(b"[")
        ids = after[self._ids]
        if ids + self._end != after or not (ids.isdigit() or are_ids(ids)):
            return None
        text = before[self._text]
        if self._start + text + self._middle != before:
            return None
        if _LINE_FEED not in text:
            return before + self._nulled
        strings = self._several(data)
        if strings is None:
            return None
        between = b"".join((self._middle, self._nulled, self._start))
        return b"".join((self._start, between.join(strings), self._middle, self._nulled))

    def hide_ids_without_text(self, data: bytes) -> bytes | None:
        """Return an event without content and without its ids; None if the data is anything but such an event."""
        before, _, after = data.rpartition(b"[")
        if before != self._bare:
            return None
        ids = after[self._ids]
        return before + self._nulled if ids + self._end == after and are_ids(ids) else None

    def _several(self, data: bytes) -> list[bytes] | None:
        """Return the text of each event as JSON. The read's begin and end are known to be plain."""
        first, *pieces, _ = data.split(self._middle + b"[")
        between, ids, texts = self._between, [b"0"], [first[len(self._start) :]]
        for piece in pieces:
            before, found, text = piece.partition(between)
            if not found:
                return None
            ids.append(before)
            texts.append(text)
        return texts if are_ids(b",".join(ids)) and _LINE_FEED not in b"".join(texts) else None


def ids_of(events: Iterable[bytes]) -> list[int]:
    """Return the token ids of events of an `IdsFrame`."""
    return list(map(int, _NUMBER.findall(b",".join(_ANY_IDS.findall(b"".join(events))))))


def are_ids(joined: bytes) -> bool:
    """Return True for the inside of an array of ids."""
    return joined.replace(b",", b"").isdigit()


def _decoded(strings: list[bytes]) -> list[str] | None:
    """Return the texts of JSON strings; None if one is not just a string."""
    joined = b",".join(strings)
    if _LINE_FEED in joined or _CARRIAGE_RETURN in joined:
        return None
    try:
        texts = _decode_texts(b"[" + joined + b"]")
    except api.INVALID_JSON:
        return None
    return texts if len(texts) == len(strings) else None


def frame_of(payload: bytes) -> TextFrame | None:
    """Return the frame of a valid event; None if it is not plain, or spells its text in an unusual way."""
    parts = _around_text(payload)
    return None if parts is None else TextFrame(*parts)


def ids_frame_of(payload: bytes) -> IdsFrame | None:
    """As `frame_of`, of an event with token ids as its last array."""
    begin, found, rest = payload.rpartition(_IDS)
    ids, end, after = rest.partition(b"]")
    if not (found and end and are_ids(ids)) or b"[" in after or _plain_text(payload, ids=True) is None:
        return None
    after = end + after
    parts = _around_text(begin + _IDS[:-1] + b"null" + after[1:])
    if parts is None:
        return None
    before, around = parts
    middle = around[: -len(b"null" + after[1:])]
    return IdsFrame(before, middle, after) if middle.endswith(_IDS[:-1]) else None


def _around_text(payload: bytes) -> tuple[bytes, bytes] | None:
    """Return the bytes before and after the text of a plain event; None if it spells its text in an unusual way."""
    text = _plain_text(payload)
    if not text or _LINE_FEED in payload:
        return None
    before, found, after = payload.partition(b'":' + api.encode(text))
    before += b'":'
    other = text + "."
    if not found or _plain_text(b"".join((before, api.encode(other), after))) != other:
        return None
    return before, after


def _plain_text(payload: bytes, *, ids: bool = False) -> str | None:
    """Return the text of an event that holds nothing else. `ids`: but token ids."""
    try:
        event = api.decode_event(payload)
    except api.INVALID_JSON:
        return None
    if not event.choices:
        return None
    choice = event.choices[0]
    text = choice.text if choice.delta is None else choice.delta.content
    known = choice.token_ids if ids else None
    if choice.delta is None:
        plain = api.VllmChoice(text=text, token_ids=known)
    else:
        plain = api.VllmChoice(delta=api.VllmDelta(text), token_ids=known)
    return text if event == api.VllmEvent([plain]) else None
