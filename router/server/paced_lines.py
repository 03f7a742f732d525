"""Writes NDJSON lines apart in time.

JavaScript's fetch joins the chunks that have arrived when its caller reads. Some callers parse each read as one JSON
document, such as genkitx-ollama. Ollama serves them because its tokens are milliseconds apart; vLLM sends the last
token and the end of the answer together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

LINE_GAP = 0.002
"""Seconds. Single streams of vLLM are slower, so that only lines that come together are held back."""
_FETCH = (b"node", b"undici", b"Bun/", b"Deno/")


class Write(Protocol):
    def __call__(self, data: bytes, *, last: bool) -> object: ...


def joins_chunks(user_agent: bytes) -> bool:
    """True for the fetch of a JavaScript runtime without a name of its own."""
    return user_agent.startswith(_FETCH)


class PacedLines:
    """Passes lines on to a writer, at most one per `LINE_GAP`."""

    def __init__(self, write: Write, clock: Callable[[], float]) -> None:
        """`clock` returns the event loop's time."""
        self.writing = False
        """True while `write` is called."""
        self._write = write
        self._clock = clock
        self._due = 0.0
        """Time from which the next line may be written."""
        self._lines = b""
        self._last = False

    @property
    def waiting(self) -> bool:
        return bool(self._lines)

    def add(self, lines: bytes, *, last: bool) -> None:
        """Write the first line if it is due. `drain` writes the others."""
        self._lines += lines
        self._last = last
        if not self._lines or self._clock() >= self._due:
            self._write_line()

    async def drain(self) -> None:
        while self._lines:
            await asyncio.sleep(self._due - self._clock())
            self._write_line()

    def _write_line(self) -> None:
        line, end, self._lines = self._lines.partition(b"\n")
        self._due = self._clock() + LINE_GAP
        self.writing = True
        self._write(line + end, last=self._last and not self._lines)
        self.writing = False
