"""Ollama's limit on pending requests (R161, R188): those beyond the slots of the model's workers whose responses have
not begun."""

from __future__ import annotations

from vllama_pool.router.errors import ServerBusy
from vllama_pool.router.routing.resolution import Resolution

BUSY = "server busy, please try again.  maximum pending requests exceeded"
"""Ollama's text, with two spaces (R161)."""
RETRY_AFTER = 1
"""Seconds."""


class Bound:
    """Counts waiting requests of this process: of all models together, or of one entry."""

    def __init__(self, max_waiting: int) -> None:
        """With `max_waiting` 0, a request needs a free slot."""
        self.max_waiting = max_waiting
        self.waiting = 0

    def __repr__(self) -> str:
        return f"<Bound {self.waiting} waiting, {self.max_waiting} may>"

    def acquire(self, resolution: Resolution) -> None:
        """Raises ServerBusy at the limit; otherwise call `release` once."""
        if self.waiting >= self.max_waiting and resolution.beyond_slots >= self.max_waiting:
            raise ServerBusy(BUSY, retry_after=RETRY_AFTER)
        self.waiting += 1

    def release(self) -> None:
        """The response may begin, or the request failed."""
        self.waiting -= 1
