"""Finds the end of a chunked request body. Pure.

Lines end with CRLF only, as in Go since 1.24.2: a lone LF would allow request smuggling (CVE-2025-22871).
"""

from __future__ import annotations

import re

MAX_LINE = 4096
MAX_TRAILERS = 64 * 1024
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[^\r\n]*)?\r\n")


class InvalidChunk(ValueError):
    """The text says why, for the client."""


class ChunkScanner:
    """Scans one body, read by read. Does not check the CRLF after a chunk's data."""

    def __init__(self) -> None:
        self.done = False
        self._line = b""
        """The begin of an incomplete line."""
        self._data = 0
        """Bytes of the present chunk that are left, with its CRLF."""
        self._trailers: int | None = None
        """Bytes of trailers, None before the last chunk."""

    def scan(self, data: bytes, position: int) -> int:
        """Return the index after the body, or the length of `data` if it goes on. Raises InvalidChunk."""
        while position < len(data) and not self.done:
            if self._data:
                step = min(self._data, len(data) - position)
                self._data -= step
                position += step
            else:
                position = self._scan_line(data, position)
        return position

    def _scan_line(self, data: bytes, position: int) -> int:
        end = data.find(b"\n", position) + 1 or len(data)
        self._line += data[position:end]
        if len(self._line) > MAX_LINE:
            raise InvalidChunk("a line of the chunked body is too long; send shorter chunk extensions or trailers")
        if self._line.endswith(b"\n"):
            self._take(self._line)
            self._line = b""
        return end

    def _take(self, line: bytes) -> None:
        if self._trailers is not None:
            self._take_trailer(line)
        elif not (match := _SIZE.fullmatch(line)):
            raise InvalidChunk("a chunk size is invalid; send hexadecimal digits and CRLF")
        elif size := int(match[1], 16):
            self._data = size + len(b"\r\n")
        else:
            self._trailers = 0

    def _take_trailer(self, line: bytes) -> None:
        self._trailers = (self._trailers or 0) + len(line)
        if not line.endswith(b"\r\n") or self._trailers > MAX_TRAILERS:
            raise InvalidChunk("the trailers are too long or a line does not end with CRLF; send no trailers")
        self.done = line == b"\r\n"
