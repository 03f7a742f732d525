"""uvicorn's HTTP protocol with what it has not: bounds on what nobody reads, and no word of leaving HTTP/1.1.

Request heads are read before anybody is known, and so is the rest of a body after its answer. Java's client offers to
change to HTTP/2 with its first request; the parser takes the body of such a request for the other protocol's.
"""

from __future__ import annotations

from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 * 1024
"""Bytes of a request's line and headers, give or take a read at either end."""
MAX_UNREAD = 512 * 1024 * 1024
"""Bytes of a body that may still come after its answer."""
_LEAVING = frozenset({b"upgrade", b"http2-settings"})


class BoundedProtocol(HttpToolsProtocol):
    """Answers 400 to a head that does not end, and closes the connection. Offers to upgrade are not heard."""

    max_unread = MAX_UNREAD
    _head = 0
    """Bytes of reads that held nothing but a part of the present head."""
    _unread = 0
    """Bytes of reads that held nothing but a body whose answer was sent."""
    _in_head = True
    _served = 0
    """Messages that are complete."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.parser = _StayingParser(self)  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        served = self._served
        super().data_received(data)
        if self._served != served:
            self._head = self._unread = 0
        elif self._in_head:
            self._head += len(data)
        elif self.cycle.response_complete:
            self._unread += len(data)
        if self.transport.is_closing():
            return
        if self._head > MAX_HEAD:
            self.send_400_response("The request's head is too large.")
        elif self._unread > self.max_unread:
            self.transport.close()

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_head = False
        self._head = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_head = True
        self._served += 1
        super().on_message_complete()

    def head_without_upgrade(self) -> bytes:
        """The head that was just read, without what asks for another protocol."""
        lines = [b"%b %b HTTP/1.1" % (self.parser.get_method(), self.url)]
        for name, value in self.headers:
            if name == b"connection":
                value = b", ".join(word for word in _words(value) if word.lower() not in _LEAVING)
            if name not in _LEAVING and (value or name != b"connection"):
                lines.append(b"%b: %b" % (name, value))
        return b"\r\n".join([*lines, b"", b""])


class _StayingParser:
    """httptools' parser, which reads a request that offers an upgrade once more without the offer."""

    def __init__(self, protocol: BoundedProtocol) -> None:
        self._protocol = protocol
        self._begin()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def feed_data(self, data: bytes) -> None:
        """Raises HttpParserError."""
        left = memoryview(data)
        while (read := self._feed(left)) < len(left):
            left = left[read:]

    def _feed(self, data: memoryview) -> int:
        """Up to the end of the first head that offers an upgrade. Returns how many bytes that were."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offered:
            if self._parser.get_method() == b"CONNECT":
                raise httptools.HttpParserError("this is no proxy") from None
            head = self._protocol.head_without_upgrade()
            self._begin()
            self._parser.feed_data(head)
            return int(offered.args[0])
        return len(data)

    def _begin(self) -> None:
        self._parser = httptools.HttpRequestParser(self._protocol)
        # As uvicorn has it, so that the first of several requests in one read is answered.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)


def _words(value: bytes) -> list[bytes]:
    return [word.strip() for word in value.split(b",")]
