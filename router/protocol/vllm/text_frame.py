"""Texts of plain events, which differ in nothing else.

All but a few events of a stream are the same bytes around another text. Once these bytes are known, a read of any
number of such events is decoded at once.
"""

from __future__ import annotations

import msgspec

from vllama_pool.router.protocol.vllm import api

_LINE_FEED, _CARRIAGE_RETURN, _QUOTE = b'\n\r"'
_decode_texts = msgspec.json.Decoder(list[str]).decode


class TextFrame:
    """The bytes before and after the text, a JSON string, in an event."""

    __slots__ = ("_between", "_closing", "_end", "_opening", "_quoted", "_start", "_text", "_texts", "_unquoted")

    def __init__(self, before: bytes, after: bytes) -> None:
        self._start = b"data: " + before
        self._end = after + b"\n\n"
        self._between = self._end + self._start
        self._opening = self._start + b'"'
        self._closing = b'"' + after
        self._quoted = b"".join((self._closing, b"\n\n", self._opening))
        """Between two texts without their quotes."""
        self._unquoted = slice(len(self._opening), -len(self._closing))
        self._text = slice(len(before), -len(after))
        self._texts = slice(len(self._start), -len(self._end))

    def count(self, data: bytes) -> int:
        """Return the number of events; 0 if the data is anything but such events, or a text has a quote.

        The texts are not read.
        """
        *events, rest = data.split(b"\n\n")
        if rest or not events:
            return 0
        unquoted = self._unquoted
        texts = [event[unquoted] for event in events]
        # Joined again and compared at once: for many events, in two thirds of the time of a comparison for each.
        if b"".join((self._opening, self._quoted.join(texts), self._closing, b"\n\n")) != data:
            return 0
        return 0 if _QUOTE in b"".join(texts) else len(texts)

    def texts(self, data: bytes) -> list[str] | None:
        """Return the text of each event; None if the data is anything but such events, or a text is empty."""
        joined = data[self._texts]
        if self._start + joined + self._end != data:
            return None
        count = 1
        if _LINE_FEED in joined:
            # The long separator would be found slowly, so the events are split at a short one, and compared afterwards.
            text = self._text
            parts = [event[text] for event in data[6:-2].split(b"\n\ndata: ")]
            if self._between.join(parts) != joined:
                return None
            joined, count = b",".join(parts), len(parts)
        if _LINE_FEED in joined or _CARRIAGE_RETURN in joined:
            return None
        try:
            texts = _decode_texts(b"[" + joined + b"]")
        except api.INVALID_JSON:
            return None
        return texts if len(texts) == count and "" not in texts else None


def frame_of(payload: bytes) -> TextFrame | None:
    """Return the frame of a valid event; None if it is not plain, or spells its text in an unusual way."""
    text = _plain_text(payload)
    if not text or _LINE_FEED in payload:
        return None
    before, found, after = payload.partition(b'":' + api.encode(text))
    before += b'":'
    other = text + "."
    if not found or _plain_text(b"".join((before, api.encode(other), after))) != other:
        return None
    return TextFrame(before, after)


def _plain_text(payload: bytes) -> str | None:
    """Return the text of an event that holds nothing else."""
    try:
        event = api.decode_event(payload)
    except api.INVALID_JSON:
        return None
    if not event.choices:
        return None
    choice = event.choices[0]
    text = choice.text if choice.delta is None else choice.delta.content
    plain = api.VllmChoice(text=text) if choice.delta is None else api.VllmChoice(delta=api.VllmDelta(text))
    return text if event == api.VllmEvent([plain]) else None
