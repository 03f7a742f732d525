"""Server-sent events: splits bytes that are cut anywhere into the data of whole events."""

from __future__ import annotations

import re

_LINE_END = re.compile(rb"\r\n|\r(?!\Z)")
MAX_EVENT = 32 * 2**20
"""Bytes of one event. The largest that vLLM sends carries a prompt's token ids."""


class EventTooLong(Exception):
    pass


class EventSplitter:
    """Returns the `data` of each complete event. Lines may end in LF, CRLF or CR."""

    __slots__ = ("_pending", "_size")

    def __init__(self) -> None:
        self._pending: list[bytes] = []  # parts of an incomplete event; joined once its end arrives
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Raises EventTooLong."""
        if not self._pending:
            # The common case: one read is one event of one line.
            if data.find(b"\n") == len(data) - 2 and data.startswith(b"data: {") and data.endswith(b"}\n\n"):
                return [data[6:-2]]
        elif b"\n" in data or b"\r" in data or self._pending[-1].endswith(b"\r"):
            data = b"".join((*self._pending, data))
        else:
            self._keep(data)
            return []
        if b"\r" in data:
            # A CR at the very end may be half of a CRLF: it waits for the next bytes.
            data = _LINE_END.sub(b"\n", data)
        *blocks, rest = data.split(b"\n\n")
        self._pending.clear()
        self._size = 0
        if rest:
            self._keep(rest)
        return [payload for block in blocks if (payload := _data_of(block))]

    def rest(self) -> list[bytes]:
        """Return the event that an ended stream left without a closing blank line."""
        block = b"".join(self._pending)
        self._pending.clear()
        payload = _data_of(block.replace(b"\r", b"\n"))
        return [payload] if payload else []

    def _keep(self, data: bytes) -> None:
        self._pending.append(data)
        self._size += len(data)
        if self._size > MAX_EVENT:
            raise EventTooLong


def _data_of(block: bytes) -> bytes:
    if block.startswith(b"data: ") and b"\n" not in block:
        return block[6:]
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)
