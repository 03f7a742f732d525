"""An `UpstreamExchange` without a socket, on a connection that records its calls."""

from __future__ import annotations

import asyncio

from tests.support.clients.exchanges import RecordingSink
from vllama_pool.router.upstream.exchange import FINISH_TIMEOUT, UpstreamExchange
from vllama_pool.router.upstream.expiry import Expiry
from vllama_pool.router.upstream.http1 import UsualHeads
from vllama_pool.router.upstream.interface import ConnectionLost, Endpoint, ResponseTimeout

LATE = ResponseTimeout("the worker was silent for 60 s")
CLOSED = ConnectionLost("closed by the worker")


class FakeConnection:
    """Records how an exchange uses its connection."""

    def __init__(self) -> None:
        self.released: list[bool] = []
        self.reading = True

    def release(self, *, reusable: bool) -> None:
        self.released.append(reusable)

    def set_reading(self, enabled: bool) -> None:
        self.reading = enabled


class FakeOwner:
    """Records the tasks that connect, which never end by themselves."""

    def __init__(self) -> None:
        self.finishing = Expiry(FINISH_TIMEOUT, UpstreamExchange.close)
        self.usual_heads = UsualHeads()
        self.tasks: list[asyncio.Task[None]] = []

    def connect(self, exchange: UpstreamExchange) -> asyncio.Task[None]:
        self.tasks.append(asyncio.ensure_future(asyncio.Event().wait()))  # type: ignore[arg-type]
        return self.tasks[-1]


class Begun:
    """An exchange whose request was written, with its connection and its sink."""

    def __init__(self, sink: RecordingSink | None = None) -> None:
        self.connection = FakeConnection()
        self.sink = sink or RecordingSink()
        self.owner = FakeOwner()
        self.exchange = UpstreamExchange(
            Endpoint("worker", 8100),
            "POST",
            b"head",
            b"body",
            self.sink,
            self.owner,
            5.0,
            asyncio.get_running_loop(),
        )
        self.exchange.begin(self.connection)

    @property
    def ending(self) -> object:
        """The error that the sink got, None after its `eof`, or "open"."""
        return self.sink.ended.result() if self.sink.ended.done() else "open"
