"""Drops clients that do not read their responses.

One background task checks the connections whose client is behind, instead of a timer per response. A client that keeps
up is never watched.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

SLOW_READERS = "vllama.slow_readers"
"""Key of the ASGI lifespan state."""
MIN_PROGRESS = 4096
"""Bytes that a client must take within the time-out: a few packets. A byte a second does not count as progress."""
_LONGEST_INTERVAL = 1.0
_SHORTEST_INTERVAL = 0.05


class Behind(Protocol):
    """A connection whose client is behind."""

    def unsent(self) -> int:
        """Return the bytes that the client's machine has not acknowledged, in this process and in the kernel."""

    def drop_unread(self, text: str) -> None:
        """Close the connection at once. `text`: for the log."""


class _Mark:
    """The progress of a client at the latest look."""

    __slots__ = ("at", "unsent")

    def __init__(self, at: float, unsent: int) -> None:
        self.at = at
        self.unsent = unsent


class SlowReaders:
    """Checks all clients that are behind."""

    def __init__(self, limit: float = 60.0) -> None:
        """`limit`: seconds without progress."""
        self._limit = limit
        self._interval = max(_SHORTEST_INTERVAL, min(_LONGEST_INTERVAL, limit / 8))
        self._behind: dict[Behind, _Mark | None] = {}

    def __repr__(self) -> str:
        return f"<SlowReaders {len(self._behind)} behind>"

    def watch(self, connection: Behind) -> None:
        """Idempotent."""
        self._behind.setdefault(connection, None)

    def unwatch(self, connection: Behind) -> None:
        """Idempotent."""
        self._behind.pop(connection, None)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            self.check(asyncio.get_running_loop().time())

    def check(self, now: float) -> None:
        """`now`: on the loop's clock. The first check of a client begins its time."""
        for connection, mark in tuple(self._behind.items()):
            unsent = connection.unsent()
            if mark is None or mark.unsent - unsent >= MIN_PROGRESS:
                self._behind[connection] = _Mark(now, unsent)
            elif now - mark.at >= self._limit:
                self.unwatch(connection)
                text = f"its client did not read the response within {self._limit:g} s"
                connection.drop_unread(f"{text}; read it faster, or raise VLLAMA_CLIENT_STALL")
            else:
                mark.unsent = max(mark.unsent, unsent)  # this side may have written more
