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
        """Changed by those who count: up after `check`, down when the response begins or the request fails."""

    def __repr__(self) -> str:
        return f"<Bound {self.waiting} waiting, {self.max_waiting} may>"

    def check(self, resolution: Resolution) -> None:
        """Raises ServerBusy if `waiting` requests fill it, and those beyond the model's slots do, too."""
        if self.waiting >= self.max_waiting and resolution.beyond_slots >= self.max_waiting:
            raise ServerBusy(BUSY, retry_after=RETRY_AFTER)
