"""Health of a worker, from the results of its latest requests.

A lost connection and a bad response open different breakers. `link` opens at the first lost connection: the worker is
suspect. A beat of its agent closes `link` once; if the connection is lost again before any success, this router cannot
reach the worker although its agent is alive, and only a probe closes it. `breaker` opens after several consecutive
bad responses and ignores beats.
"""

from __future__ import annotations

from vllama_pool.router.balance.breaker import Breaker
from vllama_pool.router.errors import AttemptFailed, Faulty, Lost, Refused, Unavailable

PENALTY = 8.0
"""Factor per consecutive bad response."""
MAX_PENALTIES = 3
PENALTY_FOR = 5.0
"""Seconds for which a bad response counts."""


class WorkerHealth:
    """Results of requests and probes. Independent of load and of the worker's own state."""

    def __init__(self) -> None:
        self.link = Breaker(threshold=1, hold=3.0)
        self.breaker = Breaker(threshold=5, hold=5.0)

    def __repr__(self) -> str:
        return f"<WorkerHealth link={self.link!r} breaker={self.breaker!r}>"

    def describe(self, now: float) -> str:
        """The state that `vllama ps` shows: "closed", "open", "half-open" or "suspect"."""
        return "suspect" if self.is_suspect(now) else str(self.breaker.circuit(now))

    def is_suspect(self, now: float) -> bool:
        """True if a connection was lost, nothing has succeeded since, and no probe is due."""
        return not self.link.allows(now)

    def healthy(self, now: float) -> bool:
        """True if requests may be sent."""
        if not self.link.is_open and not self.breaker.is_open:  # the common case, checked for every worker
            return True
        return self.link.allows(now) and self.breaker.allows(now)

    def dispatched(self, now: float) -> bool:
        """Register a request. Returns True if it is a probe of either breaker."""
        link, breaker = self.link.take(now), self.breaker.take(now)
        return link or breaker

    def abandon_probe(self) -> None:
        """End a probe without a result."""
        self.link.abandon_probe()
        self.breaker.abandon_probe()

    def answered(self, sent: float) -> bool:
        """Record a success. Returns True if that closed a breaker."""
        link, breaker = self.link.succeeded(sent), self.breaker.succeeded(sent)
        return link or breaker

    def failed(self, failure: AttemptFailed | type[AttemptFailed], sent: float, now: float) -> None:
        """Record a failed attempt, by its kind."""
        kind = failure if isinstance(failure, type) else type(failure)
        if issubclass(kind, Lost):
            self.link.failed(sent, now)
            self.breaker.abandon_probe()
            return
        self.link.succeeded(sent)
        if issubclass(kind, Unavailable | Faulty):
            self.breaker.failed(sent, now)
        elif issubclass(kind, Refused):
            self.breaker.succeeded(sent)
        else:  # Busy and ModelGone say nothing about health
            self.breaker.abandon_probe()

    def penalty(self, now: float) -> float:
        """Factor on the worker's score after bad responses; 1 without.

        A worker that fails at once always has free slots and would attract every request until its breaker opens.
        With the breaker open the factor is 1: the worker is then chosen only in a panic, which spreads the load.
        """
        fresh = not self.breaker.is_open and now - self.breaker.failed_at < PENALTY_FOR
        return PENALTY ** min(self.breaker.failures, MAX_PENALTIES) if fresh else 1.0

    def mark_up(self) -> bool:
        """Record a beat of its agent. Returns True if that closed `link`."""
        return self.link.close_once()

    def reset(self, now: float) -> None:
        """Forget everything: the worker is a new process."""
        self.link.reset(now)
        self.breaker.reset(now)
