"""Reports a client's disconnect by a callback.

The HTTP protocol reports it at once. Other ASGI servers report it only through `receive`, so a task awaits that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from vllama_pool.router.server.asgi import Receive, Scope

DISCONNECT = "vllama.disconnect"
"""The scope's key of a `DisconnectSignal`, set by the HTTP protocol."""


class DisconnectSignal:
    """The disconnect of one request's client."""

    __slots__ = ("callback", "disconnected")

    def __init__(self) -> None:
        self.disconnected = False
        self.callback: Callable[[], object] | None = None

    def fire(self) -> None:
        self.disconnected = True
        callback, self.callback = self.callback, None
        if callback is not None:
            callback()


def on_disconnect(scope: Scope, receive: Receive, callback: Callable[[], object]) -> Callable[[], object]:
    """Call `callback` once if the client disconnects; soon if it has. Returns a function that ends this.

    Call it after the request's body was read.
    """
    signal: DisconnectSignal | None = scope.get(DISCONNECT)
    loop = asyncio.get_running_loop()
    if signal is None:
        return loop.create_task(_wait(receive, callback)).cancel
    if signal.disconnected:
        return loop.call_soon(callback).cancel
    signal.callback = callback
    return partial(_forget, signal)


def _forget(signal: DisconnectSignal) -> None:
    signal.callback = None


async def _wait(receive: Receive, callback: Callable[[], object]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    callback()
