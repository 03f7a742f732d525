"""Whether one more request may wait for a worker: Ollama's bound on pending requests (R161, R188).

A request waits until its answer may begin, inside vLLM as a rule. The bound is on those for which the model's workers
have no slot: however many prompts arrive at once, those that run are not refused.
"""

from __future__ import annotations

from vllama_pool.router.errors import ServerBusy
from vllama_pool.router.routing.resolve import Resolution

BUSY = "server busy, please try again.  maximum pending requests exceeded"
"""Ollama's own words, with two spaces (R161)."""
RETRY_AFTER = 1
"""Seconds."""


class Admission:
    """Counts this process's requests whose answers have not begun, for all models together."""

    def __init__(self, most: int) -> None:
        """`most` requests may wait. With 0 a request is taken only while there is a free slot."""
        self._most = most
        self.waiting = 0

    def __repr__(self) -> str:
        return f"<Admission {self.waiting} waiting, {self._most} may>"

    def enter(self, resolution: Resolution) -> None:
        """A request begins to wait. Raises ServerBusy if too many do; else call `leave` once."""
        if self.waiting >= self._most and resolution.beyond_slots >= self._most:
            raise ServerBusy(BUSY, retry_after=RETRY_AFTER)
        self.waiting += 1

    def leave(self) -> None:
        """Its answer may begin, or it has failed."""
        self.waiting -= 1
