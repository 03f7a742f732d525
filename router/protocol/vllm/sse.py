"""Server-sent events."""

from __future__ import annotations

import re

_LINE_END = re.compile(rb"\r\n|\r(?!\Z)")
_LINE_FEED, _CARRIAGE_RETURN = b"\n\r"
"""Numbers, which `in` finds faster than bytes."""
MAX_EVENT = 32 * 2**20
"""Bytes. vLLM's largest event holds a prompt's token ids."""


class EventTooLong(Exception):
    pass


def is_whole(data: bytes) -> bool:
    """True if the bytes end an event and have no CR, as nearly always."""
    return data[-2:] == b"\n\n" and _CARRIAGE_RETURN not in data


def payloads(events: bytes) -> list[bytes]:
    """Return the `data` of complete events, whose lines end in LF."""
    if events[:6] == b"data: ":
        data = events[6:-2]
        if _LINE_FEED not in data:
            return [data] if data else []
        usual = data.split(b"\n\ndata: ")
        for each in usual:
            if not each or _LINE_FEED in each:
                break
        else:
            return usual
    return [payload for block in events.split(b"\n\n") if (payload := _data_of(block))]


class EventSplitter:
    """Returns complete events, with LF as line end, from bytes split anywhere."""

    __slots__ = ("_pending", "_size")

    def __init__(self) -> None:
        self._pending: list[bytes] = []  # parts of an incomplete event
        self._size = 0

    @property
    def within_event(self) -> bool:
        """True if the last bytes belong to an event that has not ended."""
        return bool(self._pending)

    def feed(self, data: bytes) -> bytes:
        """Raises EventTooLong."""
        if self._pending:
            if not (_LINE_FEED in data or _CARRIAGE_RETURN in data or self._pending[-1][-1] == _CARRIAGE_RETURN):
                self._keep(data)
                return b""
            data = b"".join((*self._pending, data))
            self._pending.clear()
            self._size = 0
        if _CARRIAGE_RETURN in data:
            # A CR at the end may be half of a CRLF, so it stays.
            data = _LINE_END.sub(b"\n", data)
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            end = 0
        if rest := data[end:]:
            self._keep(rest)
        return data[:end]

    def rest(self) -> bytes:
        """Return an event that lacks its closing blank line, with it."""
        block = b"".join(self._pending)
        self._pending.clear()
        return block.replace(b"\r", b"\n") + b"\n\n"

    def _keep(self, data: bytes) -> None:
        if data:
            self._pending.append(data)
        self._size += len(data)
        if self._size > MAX_EVENT:
            raise EventTooLong


def _data_of(block: bytes) -> bytes:
    if block[:6] == b"data: " and _LINE_FEED not in block:
        return block[6:]
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)
