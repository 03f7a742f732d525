"""When a static worker is asked for its abilities, and what is known of them. No I/O.

Known abilities stay until the next answer, so that a worker that comes and goes keeps serving tool calls.
"""

from __future__ import annotations

from collections import deque

from vllama_pool.workers.vllm.abilities import Detection

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
        self.version = 0
        """Counts `renew`. An answer to an earlier question is void."""
        self._tries = 0
        self._due: float | None = 0.0
        """None once all abilities are known."""
        self._renewed_at: deque[float] = deque(maxlen=MAX_RENEWALS)

    def is_due(self, now: float) -> bool:
        return self._due is not None and now >= self._due

    def renew(self, now: float, *, forget: bool = False) -> None:
        """Ask again, as the server was restarted. `forget`: it is another model."""
        renewed = self._renewed_at
        waits = len(renewed) == MAX_RENEWALS and now - renewed[0] < RENEWAL_WINDOW
        self._due = renewed[0] + RENEWAL_WINDOW if waits else now
        renewed.append(self._due)
        self.version += 1
        self._tries = 0
        if forget:
            self.abilities = ()

    def answered(self, detected: Detection, version: int, now: float) -> bool:
        """Record an answer to a question of `version`. Return True if the known abilities changed."""
        if version != self.version:
            return False
        self._tries += 1
        complete = detected.complete or self._tries >= MAX_LEARN_TRIES
        self._due = None if complete else now + LEARN_RETRY * 2 ** (self._tries - 1)
        before = self.abilities
        fresh = tuple(name for name in detected.abilities if name not in before)
        self.abilities = detected.abilities if detected.complete else (*before, *fresh)
        return set(self.abilities) != set(before)
