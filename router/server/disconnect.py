"""Watching whether the client is still there.

ASGI tells of a client's leaving only to who awaits `receive`. One task does, for the whole request: while a
worker is sought the leaving cancels the search, and once the answer is relayed it ends the relay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any, TypeVar

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
T = TypeVar("T")


class ClientDisconnected(Exception):
    """The client closed its connection before its answer was complete."""


class DisconnectWatcher:
    """Watches one client, from the moment its request is read. An async context manager."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False
        self._on_leaving: Callable[[], object] | None = None
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> DisconnectWatcher:
        self._watch = asyncio.get_running_loop().create_task(self._watch_client())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._on_leaving = None
        if self._watch is not None:
            self._watch.cancel()

    @property
    def gone(self) -> bool:
        return self._gone

    async def until_disconnect(self, work: Awaitable[T]) -> T:
        """Await `work`, cancelling it if the client leaves. Raises ClientDisconnected then."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("presence is watched from within a task")
        if self._gone:
            close = getattr(work, "close", None)
            if close is not None:
                close()
            raise ClientDisconnected
        self._on_leaving = task.cancel
        try:
            return await work
        except asyncio.CancelledError:
            if self._gone and task.uncancel() == 0:
                raise ClientDisconnected from None
            raise
        finally:
            self._on_leaving = None

    def on_disconnect(self, callback: Callable[[], object]) -> None:
        """Call `callback` when the client leaves; at once if it has left."""
        if self._gone:
            callback()
        else:
            self._on_leaving = callback

    async def _watch_client(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._gone = True
                if self._on_leaving is not None:
                    self._on_leaving()
                return
