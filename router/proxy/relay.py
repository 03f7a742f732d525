"""Translates a worker's response and writes it to the client.

The output is held until the client's response may begin; until then, another worker can answer. From there on, bytes
pass the translator and the client's writer inside the event loop's read callback. While the client does not read,
reading from the worker pauses, so memory per slow client is bounded and vLLM gets the back-pressure.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol

from vllama_pool.router.errors import AttemptFailed, Lost
from vllama_pool.router.protocol.operation import StreamTranslator
from vllama_pool.router.protocol.vllm.errors import classify_stream_failure
from vllama_pool.router.protocol.vllm.token_log import TokenLog
from vllama_pool.router.proxy.client_writer import ClientWriter
from vllama_pool.router.proxy.headers import Headers
from vllama_pool.router.proxy.worker_errors import MAX_ERROR_BODY, classify_response, transport_failure
from vllama_pool.router.upstream.interface import Exchange, ResponseTimeout, TransportError

WORKER_LOST = "the worker was lost while it was answering; send the request again"


class Stage(Protocol):
    """Between a worker's bytes and the translator."""

    continues: ClassVar[bool]
    """The client's response has begun with another worker's answer."""

    def feed(self, data: bytes, /) -> bytes:
        """Return what the translator reads."""


class Ending(enum.StrEnum):
    COMPLETE = "complete"
    """The whole response was sent."""
    INTERRUPTED = "interrupted"
    """The worker was lost in mid-stream. Another one may continue the answer; the client got no error."""
    LOST = "lost"
    """The client got an error line, as the worker was lost."""
    FAILED = "failed"
    """The client got the worker's error event as an error line."""
    OUT_OF_TIME = "out of time"
    """The client got an error line, as the request's whole time was over, or that of a router that stops."""
    CLIENT_GONE = "client gone"
    CLIENT_STALLED = "client stalled"
    """The server dropped the client, because it did not read."""
    WHOLE = "whole"
    """The answer is complete, and nothing was sent: it is not streamed."""


class Relay:
    """The sink of one exchange. Resolves `ended` once: with an Ending, or AttemptFailed if the client has no byte."""

    __slots__ = (
        *("_client", "_drain", "_ending", "headers", "_held", "_loop", "_on_begin", "_over"),
        *("_refusal", "_relaying", "_stage", "_stream", "ended", "exchange", "log", "loss", "size", "translator"),
    )

    def __init__(
        self,
        translator: StreamTranslator,
        client: ClientWriter,
        headers: Headers,
        on_begin: Callable[[], None],
        *,
        stream: bool,
        stage: Stage | None = None,
        log: TokenLog | None = None,
    ) -> None:
        """`headers`: of the client's response. `on_begin` is called before a streamed response begins.

        `stage`: passes the worker's bytes to the translator; with one, another worker may continue the answer, or is
        continued.
        """
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Ending] = self._loop.create_future()
        self.exchange: Exchange | None = None
        """Set by the owner, who closes it."""
        self.translator = translator
        self.size = 0
        """Bytes received before the client's response may begin."""
        self._client = client
        self.headers = headers
        self._on_begin = on_begin
        self._stream = stream
        self._relaying = False
        """The client's response has begun."""
        self._over = False
        """Nothing more of the worker counts."""
        self._ending: Ending | None = None
        """Of a response that was written, but that the client has not read."""
        self._held = b""
        self._stage = stage
        self.log = log
        self._refusal: tuple[int, Mapping[str, str], bytearray] | None = None
        self._drain: asyncio.Task[None] | None = None

    @property
    def interruptible(self) -> bool:
        """True if another worker may continue the answer."""
        return self.log is not None

    @property
    def waits_for_client(self) -> bool:
        return self._drain is not None

    @property
    def at_end(self) -> bool:
        """True if the whole response is written, and the client reads the rest of it."""
        return self._ending is not None

    # the sink

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        if status != 200:
            self._refusal = status, headers, bytearray()

    def data(self, chunk: bytes) -> None:
        if not self._relaying:
            self._hold(chunk)
            return
        translator = self.translator
        if self._stage is not None:
            chunk = self._stage.feed(chunk)
        out = translator.feed(chunk)
        if translator.done or translator.failure is not None:
            self._end_stream(out)
        elif out and not self._client.write(out):
            self._wait_for_client()

    def eof(self) -> None:
        if self._relaying:
            if self.interruptible:
                self._interrupt(WORKER_LOST)
                return
            self._finish(self.translator.finish(), Ending.COMPLETE if self.translator.done else Ending.LOST)
        elif not self._over:
            self._end_held()

    def lost(self, error: TransportError) -> None:
        if self._relaying:
            text = str(error) if isinstance(error, ResponseTimeout) else WORKER_LOST
            if self.interruptible:
                self._interrupt(text)
                return
            self._finish(self.translator.fail(text), Ending.LOST)
        elif not self._over:
            self._fail(transport_failure(error))

    # called by the owner

    def client_gone(self) -> None:
        self._settle(Ending.CLIENT_GONE)

    def expire(self, text: str) -> bool:
        """End a response that has begun with an error. Return False if it has not, or has ended."""
        if not self._relaying:
            return False
        self._finish(self.translator.fail(text), Ending.OUT_OF_TIME)
        return True

    def stop(self) -> None:
        """Stop waiting for the client. Idempotent."""
        if self._drain is not None:
            self._drain.cancel()
            self._drain = None  # the error of a cancelled task refers to this: no garbage to collect

    # before the client's response begins

    def _hold(self, chunk: bytes) -> None:
        if self._over:
            return
        if self._refusal is not None:
            body = self._refusal[2]
            body += chunk
            if len(body) >= MAX_ERROR_BODY:
                self._end_held()
            return
        self.size += len(chunk)
        translator = self.translator
        if self._stage is not None:
            chunk = self._stage.feed(chunk)
        self._held += translator.feed(chunk)
        if translator.ready:
            self._begin()
        elif translator.failure is not None:
            self._fail(classify_stream_failure(translator.failure))

    def _end_held(self) -> None:
        """The response ended before the client's began. It may be complete all the same."""
        translator = self.translator
        if self._refusal is not None:
            status, headers, body = self._refusal
            self._fail(classify_response(status, headers, bytes(body)))
            return
        if not self._stream:
            self._settle(Ending.WHOLE)
            return
        self._held += translator.finish()
        if translator.failure is not None:
            self._fail(classify_stream_failure(translator.failure))
        elif translator.done:
            self._begin()
        else:
            self._fail(incomplete())

    def _begin(self) -> None:
        if not self._stream:
            self._settle(Ending.WHOLE)
            return
        self._on_begin()
        self._relaying = True
        if self._stage is None or not self._stage.continues:
            self._client.start(200, self.headers)
        out, self._held = self._held, b""
        translator = self.translator
        if translator.done or translator.failure is not None:  # it came together with the first content
            self._end_stream(out)
        elif not self._client.write(out):
            self._wait_for_client()

    def _fail(self, failure: AttemptFailed) -> None:
        self._over = True
        if not self.ended.done():
            self.ended.set_exception(failure)

    # after it has begun

    def _end_stream(self, out: bytes) -> None:
        translator = self.translator
        failure = translator.failure
        if failure is not None and self.interruptible and failure.status >= 500 and not failure.model_at_fault:
            if out:
                self._client.write(out)
            self._interrupt(failure.text)
        elif failure is not None:
            self._finish(out + translator.fail(failure.text), Ending.FAILED)
        else:
            self._finish(out + translator.finish(), Ending.COMPLETE)

    def _interrupt(self, text: str) -> None:
        self.loss = text  # the client's error, if nobody continues the answer
        self._settle(Ending.INTERRUPTED)

    def _finish(self, out: bytes, ending: Ending) -> None:
        if self._client.write(out, last=True):
            self._settle(ending)
        else:
            self._relaying, self._over = False, True
            self._ending = ending
            self._wait_for_client()

    def _wait_for_client(self) -> None:
        """Pause reading from the worker until the client has read what was written."""
        if self._drain is None:
            if self.exchange is not None:
                self.exchange.pause()
            self._drain = self._loop.create_task(self._drain_client())

    async def _drain_client(self) -> None:
        try:
            await self._client.drained()
        except TimeoutError:
            self._settle(Ending.CLIENT_STALLED)
            return
        self._drain = None
        if self._ending is not None:
            self._settle(self._ending)
        elif self.exchange is not None:
            self.exchange.last_heard = self._loop.time()  # reading was paused until now
            self.exchange.resume()

    def _settle(self, ending: Ending) -> None:
        self._relaying, self._over = False, True
        if not self.ended.done():
            self.ended.set_result(ending)


def incomplete() -> Lost:
    return Lost("the worker's answer ended before it was whole", status=502)
