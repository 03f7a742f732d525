"""DisconnectWatcher: a disconnect cancels the wait for a worker."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from vllama_pool.router.server.asgi import ClientDisconnected
from vllama_pool.router.server.disconnect import DisconnectWatcher


class Connection:
    """A client's connection. `receive` waits until the test sets `closed`."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def receive(self) -> MutableMapping[str, Any]:
        await self.closed.wait()
        return {"type": "http.disconnect"}


async def test_the_result_of_finished_work_is_returned() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    async with DisconnectWatcher(Connection().receive) as watcher:
        assert await watcher.until_disconnect(work()) == 7


async def test_a_disconnect_cancels_the_work_and_raises_client_disconnected() -> None:
    connection = Connection()
    cleaned_up = False

    async def work() -> None:
        nonlocal cleaned_up
        asyncio.get_running_loop().call_soon(connection.closed.set)
        try:
            await asyncio.Event().wait()
        finally:
            cleaned_up = True

    async with DisconnectWatcher(connection.receive) as watcher:
        with pytest.raises(ClientDisconnected):
            await watcher.until_disconnect(work())
        assert watcher.disconnected
    assert cleaned_up
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancelled_request_raises_cancelled_error() -> None:
    started = asyncio.Event()

    async def request() -> None:
        async def work() -> None:
            started.set()
            await asyncio.Event().wait()

        async with DisconnectWatcher(Connection().receive) as watcher:
            await watcher.until_disconnect(work())

    task = asyncio.create_task(request())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_earlier_disconnect_is_reported_at_once() -> None:
    connection = Connection()
    connection.closed.set()
    calls: list[bool] = []
    async with DisconnectWatcher(connection.receive) as watcher:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        watcher.on_disconnect(lambda: calls.append(True))
        with pytest.raises(ClientDisconnected):
            await watcher.until_disconnect(asyncio.sleep(0))
    assert calls == [True]
