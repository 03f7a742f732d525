"""uvicorn's HttpToolsProtocol with limits on header size and unread bodies; Upgrade offers are ignored.

Java's client offers HTTP/2 with its first request, whose body httptools would take for HTTP/2.
"""

from __future__ import annotations

from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 * 1024
"""Bytes of a request's line and headers, to the precision of one read."""
MAX_UNREAD = 512 * 1024 * 1024
"""Bytes of a body that arrive after its response."""
_UPGRADE_HEADERS = frozenset({b"upgrade", b"http2-settings"})


class BoundedProtocol(HttpToolsProtocol):
    """Answers 400 to an endless head and closes the connection."""

    max_unread = MAX_UNREAD
    _head = 0
    """Bytes of reads that held only a part of the current head."""
    _unread = 0
    """Bytes of reads that held only a body whose response was sent."""
    _in_head = True
    _completed = 0
    """Complete requests."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.parser = _UpgradeIgnoringParser(self)  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        complete = self._completed
        super().data_received(data)
        if self._completed != complete:
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
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_head = True
        self._completed += 1
        super().on_message_complete()

    def head_without_upgrade(self) -> bytes:
        lines = [b"%b %b HTTP/1.1" % (self.parser.get_method(), self.url)]
        for name, value in self.headers:
            if name == b"connection":
                value = b", ".join(word for word in _words(value) if word.lower() not in _UPGRADE_HEADERS)
            if name not in _UPGRADE_HEADERS and (value or name != b"connection"):
                lines.append(b"%b: %b" % (name, value))
        return b"\r\n".join([*lines, b"", b""])


class _UpgradeIgnoringParser:
    """httptools' parser. It parses a head that offers an upgrade again, without the offer."""

    def __init__(self, protocol: BoundedProtocol) -> None:
        self._protocol = protocol
        self._begin()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def feed_data(self, data: bytes) -> None:
        """Raises HttpParserError."""
        unparsed = memoryview(data)
        while (parsed := self._feed(unparsed)) < len(unparsed):
            unparsed = unparsed[parsed:]

    def _feed(self, data: memoryview) -> int:
        """Parse up to the end of the first head that offers an upgrade. Return the bytes parsed."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._parser.get_method() == b"CONNECT":
                raise httptools.HttpParserError("this server is not a proxy") from None
            head = self._protocol.head_without_upgrade()
            self._begin()
            self._parser.feed_data(head)
            return int(upgrade.args[0])
        return len(data)

    def _begin(self) -> None:
        self._parser = httptools.HttpRequestParser(self._protocol)
        # As in uvicorn, so that the first of several requests in one read is answered.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)


def _words(value: bytes) -> list[bytes]:
    return [word.strip() for word in value.split(b",")]
