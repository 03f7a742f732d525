"""Detects a client's disconnect. ASGI reports it only through `receive`, so one task per request awaits that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeVar

from vllama_pool.router.server.asgi import ClientDisconnected, Receive

T = TypeVar("T")


class DisconnectWatcher:
    """Watches a client from the end of its request's body on."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._disconnected = False
        self._callback: Callable[[], object] | None = None
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> DisconnectWatcher:
        self._watch = asyncio.get_running_loop().create_task(self._watch_client())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._callback = None
        if self._watch is not None:
            self._watch.cancel()

    @property
    def disconnected(self) -> bool:
        return self._disconnected

    async def until_disconnect(self, work: Awaitable[T]) -> T:
        """Await `work`. On a disconnect, cancel it and raise ClientDisconnected."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("until_disconnect needs a running task")
        if self._disconnected:
            close = getattr(work, "close", None)
            if close is not None:
                close()
            raise ClientDisconnected
        self._callback = task.cancel
        try:
            return await work
        except asyncio.CancelledError:
            if self._disconnected and task.uncancel() == 0:
                raise ClientDisconnected from None
            raise
        finally:
            self._callback = None

    def on_disconnect(self, callback: Callable[[], object]) -> None:
        """Call `callback` on a disconnect; at once if it has happened."""
        if self._disconnected:
            callback()
        else:
            self._callback = callback

    async def _watch_client(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._disconnected = True
                if self._callback is not None:
                    self._callback()
                return
