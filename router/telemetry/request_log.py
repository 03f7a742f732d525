"""The request log: one JSON line per request. Requests that only read have one at debug level.

A thread writes buffered lines every 200 ms, so that a slow terminal or pipe never delays a token. Lines beyond the
buffer are dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable
from typing import BinaryIO

import msgspec

from vllama_pool.router.telemetry.request_record import RequestRecord

FLUSH_SECONDS = 0.2
MAX_LINES = 10_000
_COMMA = ord(",")
_INFO, _DEBUG = (
    tuple(f'{milliseconds:03}Z","level":"{level}","event":"request"'.encode() for milliseconds in range(1000))
    for level in ("info", "debug")
)
"""Text between the second and the record, by milliseconds."""

_CONTROLS = re.compile(
    rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\x8b-\x8f\xa8-\xae]|\xe2\x81[\xa0-\xaf]|\xef\xbb\xbf|\xef\xbf[\xb9-\xbb]"
)
"""In UTF-8: those that JSON allows but a terminal may obey, such as C1 (U+009B), and those that reorder text."""


def escaped(lines: bytes | bytearray) -> bytes | bytearray:
    """Escape the control characters in strings of JSON that JSON itself does not escape."""
    if lines.isascii() and b"\x7f" not in lines:
        return lines
    return _CONTROLS.sub(lambda found: b"\\u%04x" % ord(found[0].decode()), lines)


class RequestLog:
    def __init__(
        self,
        stream: BinaryIO,
        *,
        debug: bool = False,
        max_lines: int = MAX_LINES,
        now: Callable[[], float] = time.time,
    ) -> None:
        """The caller owns the stream. `now` returns Unix seconds."""
        self._stream = stream
        self._time = now
        self._debug = debug
        self._max_lines = max_lines
        self._buffer = bytearray()
        self._lines = 0
        self._dropped = 0
        self._encode_into = msgspec.json.Encoder().encode_into
        self._second = -1.0
        self._head = b""
        self._stopping = asyncio.Event()

    @property
    def dropped(self) -> int:
        return self._dropped

    def finished(self, record: RequestRecord) -> None:
        tails = _INFO
        if not record.operation and record.only_read:
            if not self._debug:
                return
            tails = _DEBUG
        if self._lines >= self._max_lines:
            self._dropped += 1
            return
        now = self._time()
        if not 0.0 <= now - self._second < 1.0:
            self._start_second(now)
        buffer = self._buffer
        buffer += self._head
        buffer += tails[int((now - self._second) * 1000)]
        start = len(buffer)
        self._encode_into(record, buffer, start)
        buffer[start] = _COMMA  # the record's brace: its fields continue the object
        buffer += b"\n"
        self._lines += 1

    def _start_second(self, now: float) -> None:
        self._second = now // 1
        self._head = time.strftime('{"time":"%Y-%m-%dT%H:%M:%S.', time.gmtime(self._second)).encode()

    async def run(self) -> None:
        """Write buffered lines until `stop`, then the rest."""
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._stopping.wait()
            await self._flush()
        await self._flush()

    def stop(self) -> None:
        self._stopping.set()

    async def _flush(self) -> None:
        if self._lines:
            data, self._buffer, self._lines = self._buffer, bytearray(), 0
            await asyncio.to_thread(self._write, data)

    def _write(self, data: bytes | bytearray) -> None:
        try:
            self._stream.write(escaped(data))
            self._stream.flush()
        except (OSError, ValueError):  # closed pipe or full disk
            self._dropped += data.count(b"\n")
