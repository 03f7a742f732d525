"""The report of a client's disconnect: by the protocol's signal, and by `receive` of another server."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from tests.support.until import auntil
from vllama_pool.router.server.disconnect import DISCONNECT, DisconnectSignal, on_disconnect


class Connection:
    """A client's connection to some ASGI server."""

    def __init__(self, *, signal: bool) -> None:
        self.signal = DisconnectSignal() if signal else None
        self.scope: dict[str, Any] = {DISCONNECT: self.signal} if signal else {}
        self.closed = asyncio.Event()
        self.receiving = 0
        self.calls = 0

    async def receive(self) -> MutableMapping[str, Any]:
        assert self.signal is None, "the signal makes receive superfluous"
        self.receiving += 1
        if self.receiving == 1:
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.closed.wait()
        return {"type": "http.disconnect"}

    def disconnect(self) -> None:
        if self.signal is not None:
            self.signal.fire()
        self.closed.set()

    def called(self) -> None:
        self.calls += 1


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture(params=[True, False], ids=["signal", "receive"])
async def connection(request: pytest.FixtureRequest) -> Connection:
    return Connection(signal=request.param)


async def test_a_disconnect_calls_back_once(connection: Connection) -> None:
    on_disconnect(connection.scope, connection.receive, connection.called)
    await turns()
    assert connection.calls == 0
    connection.disconnect()
    await auntil(lambda: connection.calls)
    connection.disconnect()
    await turns()
    assert connection.calls == 1


async def test_an_earlier_disconnect_calls_back_soon_but_not_at_once(connection: Connection) -> None:
    connection.disconnect()
    on_disconnect(connection.scope, connection.receive, connection.called)
    assert connection.calls == 0
    await auntil(lambda: connection.calls)
    assert connection.calls == 1


async def test_nothing_is_called_after_watching_ends(connection: Connection) -> None:
    stop = on_disconnect(connection.scope, connection.receive, connection.called)
    await turns()
    stop()
    stop()
    connection.disconnect()
    await turns()
    assert connection.calls == 0


async def test_watching_may_end_before_an_earlier_disconnect_was_reported(connection: Connection) -> None:
    connection.disconnect()
    on_disconnect(connection.scope, connection.receive, connection.called)()
    await turns()
    assert connection.calls == 0


async def test_watching_may_end_after_the_disconnect(connection: Connection) -> None:
    stop = on_disconnect(connection.scope, connection.receive, connection.called)
    connection.disconnect()
    await auntil(lambda: connection.calls)
    stop()
    await turns()
    assert connection.calls == 1


async def test_the_signal_calls_back_within_the_event_and_keeps_no_callback() -> None:
    connection = Connection(signal=True)
    on_disconnect(connection.scope, connection.receive, connection.called)
    connection.disconnect()
    assert connection.calls == 1
    assert connection.signal is not None
    assert connection.signal.callback is None
    assert connection.signal.disconnected
