"""The request log: one JSON line per request. Requests that only read have one at debug level.

A thread writes buffered lines every 200 ms, so that a slow terminal or pipe never delays a token. Lines beyond the
buffer are dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from typing import BinaryIO

import msgspec

from vllama_pool.router.telemetry.request_record import RequestRecord

FLUSH_SECONDS = 0.2
MAX_LINES = 10_000


_CONTROLS = re.compile(
    rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\x8b-\x8f\xa8-\xae]|\xe2\x81[\xa0-\xaf]|\xef\xbb\xbf|\xef\xbf[\xb9-\xbb]"
)
"""In UTF-8: those that JSON allows but a terminal may obey, such as C1 (U+009B), and those that reorder text."""


def escaped(line: bytes) -> bytes:
    """Escape the control characters in strings of JSON that JSON itself does not escape."""
    if line.isascii() and b"\x7f" not in line:
        return line
    return _CONTROLS.sub(lambda found: b"\\u%04x" % ord(found[0].decode()), line)


class RequestLog:
    def __init__(self, stream: BinaryIO, *, debug: bool = False, max_lines: int = MAX_LINES) -> None:
        """The caller owns the stream."""
        self._stream = stream
        self._debug = debug
        self._max_lines = max_lines
        self._lines: list[bytes] = []
        self._dropped = 0
        self._encoder = msgspec.json.Encoder()
        self._second = -1
        self._second_text = ""
        self._stopping = asyncio.Event()

    @property
    def dropped(self) -> int:
        return self._dropped

    def finished(self, record: RequestRecord) -> None:
        level = "debug" if record.only_read else "info"
        if level == "debug" and not self._debug:
            return
        if len(self._lines) >= self._max_lines:
            self._dropped += 1
            return
        head = f'{{"time":"{self._now()}","level":"{level}","event":"request",'
        self._lines.append(head.encode() + escaped(self._encoder.encode(record)[1:]) + b"\n")

    def _now(self) -> str:
        second, milliseconds = divmod(time.time_ns() // 1_000_000, 1000)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{milliseconds:03}Z"

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
            lines, self._lines = self._lines, []
            await asyncio.to_thread(self._write, b"".join(lines))

    def _write(self, data: bytes) -> None:
        try:
            self._stream.write(data)
            self._stream.flush()
        except (OSError, ValueError):  # closed pipe or full disk
            self._dropped += data.count(b"\n")
