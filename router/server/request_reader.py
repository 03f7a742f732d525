"""Stands between a connection and httptools' parser, and decides where each request ends."""

from __future__ import annotations

import re
from typing import Any

import httptools

from vllama_pool.router.server.chunk_scanner import ChunkScanner, InvalidChunk
from vllama_pool.router.server.request_head import InvalidHead, RequestHead, parse_head

MAX_HEAD = 64 * 1024
"""Bytes of a request's line and headers."""
_HEAD_LIMIT = MAX_HEAD + len(b"\r\n\r\n")
_BLANK_LINES = re.compile(rb"(?:\r?\n)*")
_HEAD_END = re.compile(rb"\n\r?\n")
_NO_HEAD = RequestHead(b"", 0)
_INVALID = "the HTTP request is invalid; send HTTP/1.1"


class InvalidRequest(ValueError):
    """Nothing after it on the connection can be read. The text says why, for the client."""

    status = 400
    """Of the response."""


class HeadTooLarge(InvalidRequest):
    status = 431


class RequestReader:
    """Passes strict heads and exactly the bytes of each body to `parser`, which must agree on each request's end.

    `callbacks` calls `head_complete` and `message_complete` in its own callbacks.
    """

    __slots__ = (
        *("_blank", "_callbacks", "_chunks", "_parser", "_parses", "_partial", "_remaining"),
        *("completed", "head", "in_head", "last"),
    )

    def __init__(self, callbacks: Any) -> None:
        self._parser: httptools.HttpRequestParser | None = None
        self._callbacks = callbacks
        self.head = _NO_HEAD
        """The latest request's."""
        self.in_head = True
        self.completed = 0
        """Complete requests."""
        self.last = False
        """The connection closes after the present request; what follows is ignored."""
        self._partial = b""
        """A head that is not complete."""
        self._blank = 0
        """Bytes of blank lines before the head."""
        self._remaining = 0
        """Bytes of the body that are still to come, if its length is known."""
        self._chunks: ChunkScanner | None = None
        self._parses = True
        """False if the parser does not see the present request."""

    @property
    def parser(self) -> httptools.HttpRequestParser:
        """Made on demand: usual heads need none."""
        if self._parser is None:
            self._parser = httptools.HttpRequestParser(self._callbacks)
        return self._parser

    @property
    def idle(self) -> bool:
        """True between two requests, with nothing read of the next one."""
        return self.in_head and not (self._partial or self._blank or self.last)

    def begin_body(self, length: int) -> None:
        """Pass a body to the callbacks without the parser. Its head was read elsewhere."""
        self.in_head = self._parses = False
        self._remaining = length

    def feed_data(self, data: bytes) -> None:
        """Raises InvalidRequest."""
        try:
            self._feed(data)
        except (InvalidHead, InvalidChunk) as error:
            raise InvalidRequest(str(error)) from None
        except httptools.HttpParserError as error:
            raise InvalidRequest(_INVALID) from error

    def head_complete(self) -> None:
        self.in_head = False
        self.last = not self.parser.should_keep_alive()

    def message_complete(self) -> None:
        self.in_head = True
        self.completed += 1

    def _feed(self, data: bytes) -> None:
        if self._partial:
            scanned = max(0, len(self._partial) - 2)  # the last bytes can begin the blank line
            data, self._partial = self._partial + data, b""
            position = self._feed_head(data, 0, scanned)
        else:
            position = 0
        size = len(data)
        while position < size and not (self.last and self.in_head):
            if self._chunks:
                position = self._feed_chunks(data, position, self._chunks)
            elif self._remaining:
                position = self._feed_body(data, position)
            else:
                position = self._feed_head(data, position, position)

    def _feed_head(self, data: bytes, position: int, scanned: int) -> int:
        start = _end(_BLANK_LINES.match(data, position))
        self._blank += start - position
        end = _end(_HEAD_END.search(data, max(start, scanned)))
        if self._blank + (end or len(data)) - start > _HEAD_LIMIT:
            raise HeadTooLarge("the request's head is too large; send fewer or shorter headers")
        if not end:
            self._partial = data[start:]
            return len(data)
        self._begin(parse_head(data[start:end]))
        return end

    def _begin(self, head: RequestHead) -> None:
        self._blank = 0
        self._parses = True
        self.head = head
        self.parser.feed_data(head.strict)
        if head.chunked:
            self._chunks = ChunkScanner()
        else:
            self._remaining = head.length
        self._check_end(complete=head.length == 0)

    def _feed_body(self, data: bytes, position: int) -> int:
        end = min(len(data), position + self._remaining)
        self._remaining -= end - position
        if self._parses:
            self.parser.feed_data(memoryview(data)[position:end])
            self._check_end(complete=not self._remaining)
        else:
            self._callbacks.on_body(data[position:end])
            if not self._remaining:
                self._callbacks.on_message_complete()
        return end

    def _feed_chunks(self, data: bytes, position: int, chunks: ChunkScanner) -> int:
        end = chunks.scan(data, position)
        self.parser.feed_data(memoryview(data)[position:end])
        self._check_end(complete=chunks.done)
        if chunks.done:
            self._chunks = None
        return end

    def _check_end(self, *, complete: bool) -> None:
        if self.in_head != complete:
            raise InvalidRequest(_INVALID)


def _end(match: re.Match[bytes] | None) -> int:
    return match.end() if match else 0
