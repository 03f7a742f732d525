"""When a static worker or an attached server is asked for its abilities, and what is known of them. No I/O.

Known abilities stay until the next answer, so that a worker that comes and goes keeps serving tool calls.
"""

from __future__ import annotations

from collections import deque

from vllama_pool.workers.vllm.abilities import ABILITIES, Detection

LEARN_RETRY = 10.0
"""Seconds until detection on a busy worker is retried; doubled each time."""
MAX_LEARN_TRIES = 7
"""Together about a quarter of an hour."""
MAX_RENEWALS, RENEWAL_WINDOW = 3, 600.0
"""Detections from the start per window in seconds: a worker that restarts again and again is not asked each time."""


class AbilitySchedule:
    """Times are monotonic seconds."""

    def __init__(self) -> None:
        self.abilities: tuple[str, ...] = ()
        self.undetected = ABILITIES
        """Those that it may have, too."""
        self.version = 0
        """Counts `renew`. An answer to an earlier question is void."""
        self._tries = 0
        self.due: float | None = 0.0
        """None once all abilities are known, or after the last try."""
        self._renewed_at: deque[float] = deque(maxlen=MAX_RENEWALS)

    def is_due(self, now: float) -> bool:
        return self.due is not None and now >= self.due

    def doubt(self) -> None:
        """The server may have been restarted with other flags."""
        self.undetected = tuple(name for name in ABILITIES if name not in self.abilities)

    def renew(self, now: float, *, forget: bool = False) -> None:
        """Ask again, as the server was restarted. `forget`: it is another model."""
        renewed = self._renewed_at
        waits = len(renewed) == MAX_RENEWALS and now - renewed[0] < RENEWAL_WINDOW
        self.due = renewed[0] + RENEWAL_WINDOW if waits else now
        renewed.append(self.due)
        self.version += 1
        self._tries = 0
        if forget:
            self.abilities = ()
        self.doubt()

    def answered(self, detected: Detection, version: int, now: float) -> bool:
        """Record an answer to a question of `version`. Return True if it changes what is known."""
        if version != self.version:
            return False
        self._tries += 1
        complete = detected.complete or self._tries >= MAX_LEARN_TRIES
        self.due = None if complete else now + LEARN_RETRY * 2 ** (self._tries - 1)
        before = self.abilities, self.undetected
        kept = [name for name in self.abilities if name in detected.undetected]
        self.abilities = tuple(name for name in ABILITIES if name in detected.abilities or name in kept)
        self.undetected = tuple(name for name in self.undetected if name in detected.undetected)
        return (self.abilities, self.undetected) != before
