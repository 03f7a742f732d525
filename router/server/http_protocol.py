"""uvicorn's HttpToolsProtocol with Go's reading of request heads, HTTP/1.0 responses, and a limit on unread bodies.

Refusals go to the owner in the ASGI lifespan state, which counts them and logs few: anybody could fill the log.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from vllama_pool.router.server.arrivals import ARRIVALS, Arrivals
from vllama_pool.router.server.connection_lifetime import LINGER, closing_error
from vllama_pool.router.server.guarded_protocol import GuardedProtocol
from vllama_pool.router.server.refusal import ON_REFUSAL, malformed, too_slow
from vllama_pool.router.server.request_reader import MAX_HEAD, InvalidRequest, RequestReader
from vllama_pool.router.server.usual_head import UsualHead, UsualHeads

MAX_UNREAD = 512 * 1024 * 1024
"""Bytes of a body that arrive after its response."""


class BoundedProtocol(GuardedProtocol):
    """Answers 400 or 431 to an invalid request and closes the connection."""

    max_unread = MAX_UNREAD
    usual_heads = UsualHeads()
    """Of all connections."""
    _unread = 0
    """Bytes of reads that held only a body whose response was sent, or nothing that is read."""
    arriving_since = 0.0
    arriving_head = False
    arrived = 0
    """As in `arrivals.Arriving`, while `_watched`."""
    _watched: tuple[int, bool] | None = None
    """The complete requests at the begin of the incomplete one, and whether its head was incomplete."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._reader = RequestReader(self)

    @property
    def parser(self) -> Any:
        return self._reader.parser

    @parser.setter
    def parser(self, _: Any) -> None:
        """uvicorn forgets the parser of a lost connection. So does its reader, which refers to it: no garbage."""
        self._reader = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._idle_until = None
        reader = self._reader
        if reader.idle and self._refusal is None and (self.cycle is None or self.cycle.response_complete):
            head = self.usual_heads.read(data, MAX_HEAD)
            if head is not None:
                data = self._begin_usual(head, data)
                if not data:
                    return
        completed = reader.completed
        if self._refusal is None:
            try:
                reader.feed_data(data)
            except InvalidRequest as error:
                self._refuse(error.status, str(error))
                return
        if reader.completed != completed:
            self._unread = 0
        elif self._is_unread():
            self._unread += len(data)
        if self._unread > self.max_unread:
            self.transport.close()
        if not reader.idle or self._watched is not None:
            self._watch_arrival(reader, len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_arrival()
        super().connection_lost(exc)

    @property
    def reading_paused(self) -> bool:
        """As in `arrivals.Arriving`."""
        return bool(self.flow.read_paused)

    def restart_arrival(self, now: float) -> None:
        """As in `arrivals.Arriving`."""
        self.arriving_since = now
        self.arrived = 0

    def refuse_slow(self, text: str) -> None:
        """As in `arrivals.Arriving`."""
        self._watched = None
        if self.transport.is_closing() or self._refusal is not None:
            return
        if on_refusal := self.app_state.get(ON_REFUSAL):
            on_refusal(too_slow(self.client[0] if self.client else "", text))
        if self._reader.in_head:
            if self.cycle is None or self.cycle.response_complete:
                self.end_with(self._plain(408, text))
            else:
                self._refusal = self._plain(408, text)  # after the responses to earlier requests
        elif self.pipeline:
            refused, _ = self.pipeline.pop(0)
            self._refusal = closing_error(refused, 408, text)
        else:
            response = b"" if self.cycle.response_started else closing_error(self.cycle, 408, text)
            self._disconnect()
            self.end_with(response)

    def _watch_arrival(self, reader: RequestReader, size: int) -> None:
        """Start, continue or end the watch of an incomplete request after a read of `size` bytes."""
        if reader.idle or (reader.last and reader.in_head):
            self._end_arrival()
            return
        arrivals: Arrivals | None = self.app_state.get(ARRIVALS)
        if arrivals is None:
            return
        part = reader.completed, reader.in_head
        if part == self._watched:
            self.arrived += size
            return
        self._watched = part
        self.arriving_head = reader.in_head
        self.restart_arrival(self.loop.time())
        arrivals.watch(self)

    def _end_arrival(self) -> None:
        if self._watched is not None:
            self._watched = None
            self.app_state[ARRIVALS].unwatch(self)

    def _begin_usual(self, head: UsualHead, data: bytes) -> bytes:
        """Serve the request that `data` begins with, and return what follows it."""
        self._unread = 0
        scope, size, length = head
        end = size + length
        if end > len(data):
            self.begin_usual(scope, None)
            self._reader.begin_body(length)
            return data[size:]
        self.begin_usual(scope, data[size:end])
        return data[end:]

    def on_headers_complete(self) -> None:
        if self.expect_100_continue and self.parser.get_http_version() == "1.0":
            self.expect_100_continue = False
        super().on_headers_complete()
        self.headers = []  # trailers are dropped: they arrive after the access decision
        head = self._reader.head
        if head.method is not None:
            self.scope["method"] = head.method
        if head.path is not None:
            self.scope["path"], self.scope["raw_path"] = head.path, head.path.encode()
        self._reader.head_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._reader.message_complete()

    def _is_unread(self) -> bool:
        if self._refusal is not None or (self._reader.in_head and self._reader.last):
            return True
        return not self._reader.in_head and self.cycle.response_complete

    def _refuse(self, status: int, text: str) -> None:
        """Respond, after the responses to earlier requests, and close the connection."""
        self._refusal = response = self._plain(status, text)
        if on_refusal := self.app_state.get(ON_REFUSAL):
            on_refusal(malformed(self.client[0] if self.client else "", text))
        if self._reader.in_head:
            pending = self.cycle is not None and not self.cycle.response_complete
        elif pending := bool(self.pipeline):
            self.pipeline.pop(0)  # the request whose body is invalid
        elif self.cycle.response_started:
            self.transport.close()
            return
        else:
            self._disconnect()
        if not pending:
            self.end_with(response)

    def _plain(self, status: int, text: str) -> bytes:
        headers = (
            *self.server_state.default_headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(text)),
            (b"connection", b"close"),
        )
        return STATUS_LINE[status] + b"".join(b"%b: %b\r\n" % pair for pair in headers) + b"\r\n" + text.encode()


class DrainingProtocol(BoundedProtocol):
    """Serves connections that a draining process accepts: one request each."""

    keeps_alive = False

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.timeout_keep_alive = LINGER
