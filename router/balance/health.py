"""Whether a worker may be given requests, judged by how its last ones went.

Two circuits, because a refused connection and a bad answer mean different things. `link` opens at the first
lost connection: the worker is suspected, and the word of its agent (a beat) clears it once. If the connection
is lost again before the worker has answered anything, the beat was wrong about what this router can reach, and
only a probe clears it. `breaker` opens after several bad answers in a row and ignores beats altogether.
"""

from __future__ import annotations

from vllama_pool.router.balance.breaker import Breaker
from vllama_pool.router.errors import AttemptFailed, Faulty, Lost, Refused, Unavailable

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
        """For ops: "closed", "open", "half-open", or "suspect" while the link is in doubt."""
        return "suspect" if self.is_suspect(now) else str(self.breaker.circuit(now))

    def is_suspect(self, now: float) -> bool:
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

    def mark_up(self) -> bool:
        """Its agent says that it is well. True if that readmits it."""
        return self.link.close_once()

    def reset(self, now: float) -> None:
        """A new process behind the same name: nothing that was known counts."""
        self.link.reset(now)
        self.breaker.reset(now)
