"""Ends requests that arrive too slowly.

One background task checks all connections with an incomplete request, instead of a timer per connection. A request that
arrives with one read is never watched.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

ARRIVALS = "vllama.arrivals"
"""Key of the ASGI lifespan state."""

MIN_RATE = 8 * 1024
"""Bytes per second at which a body may arrive for longer than the time-out."""


class Arriving(Protocol):
    """A connection with an incomplete request."""

    @property
    def arriving_since(self) -> float:
        """Time of the first byte of the head or body that is incomplete, on the loop's clock."""

    @property
    def arriving_head(self) -> bool:
        """True if the head is incomplete; False for the body."""

    @property
    def arrived(self) -> int:
        """Bytes of the body since `arriving_since`."""

    @property
    def reading_paused(self) -> bool:
        """True while this side does not read."""

    def restart_arrival(self, now: float) -> None:
        """Count time and bytes from now."""

    def refuse_slow(self, text: str) -> None:
        """Answer 408 and close the connection. `text` is the client's error."""


@dataclass(frozen=True, slots=True)
class ArrivalLimits:
    """Seconds."""

    head: float = 10.0
    """From a head's first byte to its last."""
    body: float = 60.0
    """From a head's last byte to its body's, unless it arrives at MIN_RATE."""


class Arrivals:
    """Checks all incomplete requests every `interval` seconds."""

    def __init__(self, limits: ArrivalLimits | None = None, *, interval: float = 0.5) -> None:
        self._limits = limits or ArrivalLimits()
        self._interval = interval
        self._arriving: set[Arriving] = set()
        self.watch = self._arriving.add
        self.unwatch = self._arriving.discard
        """Idempotent."""

    def __repr__(self) -> str:
        return f"<Arrivals {len(self._arriving)} incomplete>"

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            self.check(asyncio.get_running_loop().time())

    def check(self, now: float) -> None:
        for connection in tuple(self._arriving):
            if connection.reading_paused:
                connection.restart_arrival(now)
            elif text := _slowness(connection, now - connection.arriving_since, self._limits):
                self.unwatch(connection)
                connection.refuse_slow(text)


def _slowness(connection: Arriving, seconds: float, limits: ArrivalLimits) -> str:
    if connection.arriving_head:
        if seconds > limits.head:
            return f"the request's head was not complete within {limits.head:g} s; send it at once"
    elif seconds > limits.body and connection.arrived < MIN_RATE * seconds:
        return f"the request's body was not complete within {limits.body:g} s; send it faster, or a shorter one"
    return ""
