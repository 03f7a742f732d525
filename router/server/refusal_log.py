"""Logs refusals before any handler: seldom, since anybody who can connect causes them, and with their cure."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from vllama_pool.router.server.refusal import Reason, Refusal

BURST = 5
"""Lines per reason at once."""
REFILL = 60.0
"""Seconds per further line."""
REPEAT = 600.0
"""Seconds until the same text is logged again."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Quota:
    """The lines of one reason."""

    lines: float = BURST
    at: float = 0.0
    suppressed: int = 0
    logged: dict[str, float] = field(default_factory=dict)
    """When each of the latest texts was logged. Bounded, because each took a line."""

    def takes(self, text: str, now: float) -> bool:
        self.lines = min(BURST, self.lines + (now - self.at) / REFILL)
        self.at = now
        if self.lines < 1 or now - self.logged.get(text, now - REPEAT) < REPEAT:
            self.suppressed += 1
            return False
        self.lines -= 1
        self.logged = {known: at for known, at in self.logged.items() if now - at < REPEAT}
        self.logged[text] = now
        return True


class RefusalLog:
    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` returns monotonic seconds."""
        self._clock = clock
        self._quotas: dict[Reason, _Quota] = {}

    def refused(self, refusal: Refusal) -> None:
        now = self._clock()
        quota = self._quotas.setdefault(refusal.reason, _Quota(at=now))
        if quota.takes(refusal.text, now):
            more = f" ({quota.suppressed} more refusals for this reason were not logged)" if quota.suppressed else ""
            quota.suppressed = 0
            _log.warning("refused: %s%s", refusal.text, more)
