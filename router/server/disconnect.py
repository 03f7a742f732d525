"""Reports a client's disconnect by a callback.

The HTTP protocol reports it at once. Other ASGI servers report it only through `receive`, so a task awaits that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vllama_pool.router.server.asgi import Receive, Scope

DISCONNECT = "vllama.disconnect"
"""The scope's key of a `DisconnectSignal`, set by the HTTP protocol."""


class DisconnectSignal:
    """The disconnect of one request's client."""

    disconnected = False
    ends_at_half_close = False
    """A client that half-closes counts as one that has left."""
    callback: Callable[[], object] | None = None

    def fire(self) -> None:
        self.disconnected = True
        callback, self.callback = self.callback, None
        if callback is not None:
            callback()

    def forget(self) -> None:
        self.callback = None

    def end_at_half_close(self) -> None:
        self.ends_at_half_close = True


def on_disconnect(scope: Scope, receive: Receive, callback: Callable[[], object]) -> Callable[[], object]:
    """Call `callback` once if the client disconnects; soon if it has. Returns a function that ends this.

    Call it after the request's body was read.
    """
    signal: DisconnectSignal | None = scope.get(DISCONNECT)
    if signal is None:
        return asyncio.get_running_loop().create_task(_wait(receive, callback)).cancel
    if signal.disconnected:
        return asyncio.get_running_loop().call_soon(callback).cancel
    signal.callback = callback
    return signal.forget


async def _wait(receive: Receive, callback: Callable[[], object]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    callback()
