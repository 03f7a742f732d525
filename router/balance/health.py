"""Whether a worker may be given requests, judged by how its last ones went.

Two circuits, because a refused connection and a bad answer mean different things. `link` opens at the first
lost connection: the worker is suspected, and the word of its agent (a beat) clears it once. If the connection
is lost again before the worker has answered anything, the beat was wrong about what this router can reach, and
only a probe clears it. `breaker` opens after several bad answers in a row and ignores beats altogether.
"""

from __future__ import annotations

import enum

from vllama_pool.router.errors import AttemptFailed, Faulty, Lost, Refused, Unavailable


class Circuit(enum.StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """Opens after `threshold` failures in a row, for `hold` seconds times the openings in a row, up to `ceiling`.

    When that time is over it is half open: one request is let through as a probe. Its success closes the
    breaker, its failure opens it for longer. Times are seconds of one monotonic clock. Requests sent before the
    breaker last opened say nothing new, so fifty streams that break together count as one event.
    """

    def __init__(self, threshold: int, hold: float, ceiling: float = 60.0) -> None:
        self._threshold = threshold
        self._hold = hold
        self._ceiling = ceiling
        self.failures = 0
        """Failures in a row since the last success."""
        self.failed_at = float("-inf")
        """When the last of them was seen."""
        self.openings = 0
        """Times opened since the last success."""
        self.is_open = False
        """Open or half open."""
        self._opened_at = float("-inf")
        self._until = float("-inf")
        self._probing = False

    def __repr__(self) -> str:
        if not self.is_open:
            return f"<Breaker closed, {self.failures} failures>"
        probe = ", probing" if self._probing else ""
        return f"<Breaker open until {self._until:.1f}, {self.openings} openings{probe}>"

    def circuit(self, now: float) -> Circuit:
        if not self.is_open:
            return Circuit.CLOSED
        return Circuit.OPEN if now < self._until else Circuit.HALF_OPEN

    def allows(self, now: float) -> bool:
        """Closed, or half open with nobody probing yet."""
        return not self.is_open or (now >= self._until and not self._probing)

    def take(self, now: float) -> bool:
        """A request goes out. True if it is the probe; its owner then gives a verdict, or calls `untake`."""
        if self.is_open and now >= self._until and not self._probing:
            self._probing = True
            return True
        return False

    def untake(self) -> None:
        """The probe ended without a verdict (its client left); the next request is one."""
        self._probing = False

    def failed(self, sent: float, now: float) -> None:
        """A request sent at `sent` failed."""
        if sent < self._opened_at or (self.is_open and now < self._until):
            return
        self.failures += 1
        self.failed_at = now
        if self.is_open or self.failures >= self._threshold:
            self._trip(now)

    def succeeded(self, sent: float) -> bool:
        """A request sent at `sent` was answered. True if that closed the breaker."""
        if sent < self._opened_at:
            return False
        was_open = self.is_open
        self._close()
        self.openings = 0
        return was_open

    def trust(self) -> bool:
        """Close on somebody else's word, once: not if it has opened again without a success in between.

        True if it was open and is closed now. The count of openings stays, so that the next failure opens it
        for longer.
        """
        if not self.is_open or self.openings > 1:
            return False
        self._close()
        return True

    def reset(self, now: float) -> None:
        """Begin anew: what requests sent until now still have to tell is of the past."""
        self._close()
        self.openings = 0
        self._opened_at = now

    def _close(self) -> None:
        self.is_open = self._probing = False
        self.failures = 0

    def _trip(self, now: float) -> None:
        self.is_open = True
        self._probing = False
        self.openings += 1
        self._opened_at = now
        self._until = now + min(self._hold * self.openings, self._ceiling)


DETERRENT = 8.0
"""Factor for each bad answer in a row."""
MOST_DETERRED = 3
DETERRED_FOR = 5.0
"""Seconds after the last of them. Then it is tried again, and the breaker counts on."""


class Health:
    """What a worker's own behaviour says of it. Knows nothing of its load or its declared state."""

    def __init__(self) -> None:
        self.link = Breaker(threshold=1, hold=3.0)
        self.breaker = Breaker(threshold=5, hold=5.0)

    def __repr__(self) -> str:
        return f"<Health link={self.link!r} breaker={self.breaker!r}>"

    def describe(self, now: float) -> str:
        """For ops: "closed", "open", "half-open", or "suspected" while the link is in doubt."""
        return "suspected" if self.suspected(now) else str(self.breaker.circuit(now))

    def suspected(self, now: float) -> bool:
        """A connection was lost and nothing good has been heard since, nor is a trial due."""
        return not self.link.allows(now)

    def healthy(self, now: float) -> bool:
        """May be given requests."""
        if not self.link.is_open and not self.breaker.is_open:  # nearly always; this is asked of every worker
            return True
        return self.link.allows(now) and self.breaker.allows(now)

    def dispatched(self, now: float) -> bool:
        """A request goes out. True if it is a probe of either circuit."""
        link, breaker = self.link.take(now), self.breaker.take(now)
        return link or breaker

    def abandoned(self) -> None:
        """A probe ended without telling anything."""
        self.link.untake()
        self.breaker.untake()

    def answered(self, sent: float) -> bool:
        """A request was answered well. True if the worker is readmitted by it."""
        link, breaker = self.link.succeeded(sent), self.breaker.succeeded(sent)
        return link or breaker

    def failed(self, failure: AttemptFailed | type[AttemptFailed], sent: float, now: float) -> None:
        """An attempt failed. What kind of failure decides what it says of the worker."""
        kind = failure if isinstance(failure, type) else type(failure)
        if issubclass(kind, Lost):
            self.link.failed(sent, now)
            self.breaker.untake()
            return
        self.link.succeeded(sent)
        if issubclass(kind, Unavailable | Faulty):
            self.breaker.failed(sent, now)
        elif issubclass(kind, Refused):
            self.breaker.succeeded(sent)
        else:  # Busy or ModelGone: neither well nor ill
            self.breaker.untake()

    def deterrent(self, now: float) -> float:
        """How many times as crowded it is taken to be than it is; 1 for none.

        A worker that fails at once is never crowded, and would attract everything until its breaker opens. Once it
        is open, whoever asks all the same is in a panic, and wants the load spread.
        """
        fresh = not self.breaker.is_open and now - self.breaker.failed_at < DETERRED_FOR
        return DETERRENT ** min(self.breaker.failures, MOST_DETERRED) if fresh else 1.0

    def heard(self) -> bool:
        """Its agent says that it is well. True if that readmits it."""
        return self.link.trust()

    def reset(self, now: float) -> None:
        """A new process behind the same name: nothing that was known counts."""
        self.link.reset(now)
        self.breaker.reset(now)
