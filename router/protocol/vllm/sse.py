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


def whole_events(data: bytes) -> list[bytes] | None:
    """Return the `data` of each event if the bytes are whole events of one line, as nearly always; None otherwise."""
    if data[:6] != b"data: " or data[-2:] != b"\n\n":
        return None
    payload = data[6:-2]
    if _CARRIAGE_RETURN in payload:
        return None
    if _LINE_FEED not in payload:
        return [payload] if payload else None
    payloads = payload.split(b"\n\ndata: ")
    for each in payloads:
        if not each or _LINE_FEED in each:
            return None
    return payloads


class EventSplitter:
    """Returns the `data` of complete events, from bytes split anywhere."""

    __slots__ = ("_pending", "_size")

    def __init__(self) -> None:
        self._pending: list[bytes] = []  # parts of an incomplete event
        self._size = 0

    @property
    def within_event(self) -> bool:
        """True if the last bytes belong to an event that has not ended."""
        return bool(self._pending)

    def feed(self, data: bytes) -> list[bytes]:
        """Raises EventTooLong."""
        if self._pending:
            if not (_LINE_FEED in data or _CARRIAGE_RETURN in data or self._pending[-1][-1] == _CARRIAGE_RETURN):
                self._keep(data)
                return []
            data = b"".join((*self._pending, data))
            self._pending.clear()
            self._size = 0
        if _CARRIAGE_RETURN in data:
            # A CR at the end may be half of a CRLF, so it stays.
            data = _LINE_END.sub(b"\n", data)
        blocks = data.split(b"\n\n")
        if rest := blocks.pop():
            self._keep(rest)
        return [payload for block in blocks if (payload := _data_of(block))]

    def rest(self) -> list[bytes]:
        """Return an event that lacks its closing blank line."""
        block = b"".join(self._pending)
        self._pending.clear()
        payload = _data_of(block.replace(b"\r", b"\n"))
        return [payload] if payload else []

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
