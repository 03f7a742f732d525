"""The request log: one JSON line per request, written outside the event loop.

Lines are buffered and written by a thread every 200 ms, so that a slow terminal or a full pipe never delays a token. If
the buffer is full, new lines are dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from typing import BinaryIO

import msgspec

from vllama_pool.router.telemetry.request_record import RequestRecord

FLUSH_SECONDS = 0.2
MOST_LINES = 10_000


class LogLine(msgspec.Struct, kw_only=True):
    """The first fields of every line."""

    time: str
    event: str = "request"


class RequestLog:
    """Writes request records as JSON lines. The caller owns the stream."""

    def __init__(self, stream: BinaryIO, *, most_lines: int = MOST_LINES) -> None:
        self._stream = stream
        self._most_lines = most_lines
        self._lines: list[bytes] = []
        self._dropped = 0
        self._encoder = msgspec.json.Encoder()
        self._stopping = asyncio.Event()

    @property
    def dropped(self) -> int:
        """Lines lost since the start."""
        return self._dropped

    def finished(self, record: RequestRecord) -> None:
        if len(self._lines) >= self._most_lines:
            self._dropped += 1
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        head = self._encoder.encode(LogLine(time=now.replace("+00:00", "Z")))
        self._lines.append(head[:-1] + b"," + self._encoder.encode(record)[1:] + b"\n")

    async def run(self) -> None:
        """Write buffered lines until `stop`, then the rest."""
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._stopping.wait()
            if self._lines:
                lines, self._lines = self._lines, []
                await loop.run_in_executor(None, self._write, b"".join(lines))

    def stop(self) -> None:
        self._stopping.set()

    def _write(self, data: bytes) -> None:
        try:
            self._stream.write(data)
            self._stream.flush()
        except (OSError, ValueError):  # closed pipe or full disk
            self._dropped += data.count(b"\n")
