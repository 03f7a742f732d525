"""Pushes a worker's stream to the client once the client's response has begun.

Bytes pass the translator and ASGI `send` inside the event loop's read callback. While the client does not read, reading
from the worker pauses: a slow client costs one bounded backlog, and vLLM gets the back-pressure.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

from vllama_pool.router.protocol.operation import StreamTranslator
from vllama_pool.router.proxy.eager_start import Suspended, resume, start_eagerly
from vllama_pool.router.upstream.interface import Response, TransportError

SEND_ERRORS = (OSError, RuntimeError)
"""Errors of a server's `send` once its client is gone; uvloop raises RuntimeError."""

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class RelayOutcome(enum.StrEnum):
    COMPLETE = "complete"
    """The whole response was sent."""
    LOST = "lost"
    """The client got an error line, as the worker was lost."""
    FAILED = "failed"
    """The client got the worker's error event as an error line."""
    CLIENT_GONE = "client gone"
    CLIENT_STALLED = "client stalled"
    """The client read nothing within the time-out."""


class Relay:
    """The sink of a worker's response, for one client. Resolves `ended` exactly once.

    The head of the client's response must have been sent. The owner of the worker's response closes it.
    """

    def __init__(
        self, response: Response, translator: StreamTranslator, send: Send, *, client_stall: float, lost_text: str
    ) -> None:
        """`client_stall`: seconds for which the client may read nothing. `lost_text`: error line for a lost worker."""
        self.ended: asyncio.Future[RelayOutcome] = asyncio.get_running_loop().create_future()
        self._response = response
        self._translator = translator
        self._send = send
        self._client_stall = client_stall
        self._lost_text = lost_text
        self._backlog = bytearray()
        self._ending: RelayOutcome | None = None  # set once the worker's side is over
        self._final_sent = False
        self._drain: asyncio.Task[None] | None = None
        self._last_progress = asyncio.get_running_loop().time()

    @property
    def last_progress(self) -> float:
        """Time of the worker's latest bytes, or of the latest drain; on the loop's clock."""
        return self._last_progress

    @property
    def waits_for_client(self) -> bool:
        return self._drain is not None

    def start(self, first_bytes: bytes) -> None:
        if self.ended.done():
            return
        if first_bytes:
            self._write(first_bytes)
            if self.ended.done():
                return
        if self._translator.failure is not None:  # it came together with the first content
            self._finish(self._translator.fail(self._translator.failure.text), RelayOutcome.FAILED)
        elif self._translator.cut_off:
            self._finish(b"", RelayOutcome.COMPLETE)
        else:
            self._response.attach(self)

    def data(self, chunk: bytes) -> None:
        if self.ended.done() or self._ending is not None:
            return
        self._last_progress = asyncio.get_running_loop().time()
        out = self._translator.feed(chunk)
        if self._translator.failure is not None:
            self._finish(out + self._translator.fail(self._translator.failure.text), RelayOutcome.FAILED)
        elif self._translator.cut_off:
            self._finish(out, RelayOutcome.COMPLETE)
        elif out:
            self._write(out)

    def eof(self) -> None:
        if self.ended.done() or self._ending is not None:
            return
        out = self._translator.finish()
        self._finish(out, RelayOutcome.COMPLETE if self._translator.done else RelayOutcome.LOST)

    def lost(self, error: TransportError) -> None:
        self.abort(self._lost_text)

    def abort(self, text: str) -> None:
        """End the client's response, with an error line unless the answer is complete."""
        if self.ended.done() or self._ending is not None:
            return
        if self._translator.done:  # only the end of the body is missing
            self._finish(self._translator.finish(), RelayOutcome.COMPLETE)
        else:
            self._finish(self._translator.fail(text), RelayOutcome.LOST)

    def client_gone(self) -> None:
        self._end(RelayOutcome.CLIENT_GONE)

    def stop(self) -> None:
        """Stop sending; idempotent."""
        if self._drain is not None and not self.ended.done():
            self._drain.cancel()

    def _finish(self, out: bytes, ending: RelayOutcome) -> None:
        self._ending = ending
        self._write(out)

    def _write(self, out: bytes) -> None:
        if self._drain is not None:
            self._backlog += out
            return
        try:
            suspended = start_eagerly(cast(Any, self._send(self._message(out))))
        except SEND_ERRORS:
            self._end(RelayOutcome.CLIENT_GONE)
            return
        if suspended is None:
            self._after_write()
        else:
            self._response.pause()
            self._drain = asyncio.get_running_loop().create_task(self._drain_backlog(suspended))

    def _message(self, out: bytes) -> MutableMapping[str, Any]:
        self._final_sent = self._ending is not None
        return {"type": "http.response.body", "body": out, "more_body": not self._final_sent}

    def _after_write(self) -> None:
        if self._final_sent and self._ending is not None:
            self._end(self._ending)

    async def _drain_backlog(self, suspended: Suspended) -> None:
        try:
            async with asyncio.timeout(self._client_stall) as allowed:
                await resume(suspended)
                while self._backlog or (self._ending is not None and not self._final_sent):
                    allowed.reschedule(asyncio.get_running_loop().time() + self._client_stall)
                    out = bytes(self._backlog)
                    self._backlog.clear()
                    await self._send(self._message(out))
        except TimeoutError:
            self._end(RelayOutcome.CLIENT_STALLED)
            return
        except SEND_ERRORS:
            self._end(RelayOutcome.CLIENT_GONE)
            return
        self._drain = None
        self._last_progress = asyncio.get_running_loop().time()  # reading was paused until now
        self._after_write()
        if not self.ended.done():
            self._response.resume()

    def _end(self, ending: RelayOutcome) -> None:
        if self.ended.done():
            return
        if self._drain is not None and self._drain is not asyncio.current_task():
            self._drain.cancel()
        self.ended.set_result(ending)
