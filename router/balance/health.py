"""Health of a worker, from the results of its latest requests.

`link` opens at the first lost connection: the worker is suspect. The next beat closes it, but after the first opening
only: a router that cannot reach a live worker needs a probe, and so does an engine that has died behind a live server.
`breaker` opens after consecutive bad responses and ignores beats. A worker is silent if a canary got no token from it:
neither beats nor health checks, which it may well answer, change that.
"""

from __future__ import annotations

from vllama_pool.router.balance.breaker import Breaker
from vllama_pool.router.errors import AttemptFailed, Faulty, Lost, Refused, Unavailable

PENALTY_FACTOR = 8.0
"""Per consecutive bad response."""
MAX_PENALTIES = 3
PENALTY_DURATION = 5.0
"""Seconds after the latest bad response."""


class WorkerHealth:
    """Results of requests and probes. Independent of load and of the worker's own state."""

    __slots__ = ("breaker", "link", "silent")

    def __init__(self) -> None:
        self.link = Breaker(threshold=1, hold=3.0)
        self.breaker = Breaker(threshold=5, hold=5.0)
        self.silent = False
        """True from a canary without a token until the next answer."""

    def __repr__(self) -> str:
        return f"<WorkerHealth link={self.link!r} breaker={self.breaker!r}>"

    def describe(self, now: float) -> str:
        """Return the state that `vllama ps` shows: "closed", "open", "half-open", "suspect" or "silent"."""
        if self.silent:
            return "silent"
        return "suspect" if self.is_suspect(now) else str(self.breaker.state(now))

    def is_suspect(self, now: float) -> bool:
        """True if it is silent, or a connection was lost, nothing has succeeded since, and no probe is due."""
        return self.silent or not self.link.allows(now)

    @property
    def is_closed(self) -> bool:
        """True if both are closed and it is not silent: the worker is healthy until the next failure."""
        return not (self.link.is_open or self.breaker.is_open or self.silent)

    @property
    def is_clean(self) -> bool:
        """True if nothing has failed since the last success."""
        return self.link.is_clean and self.breaker.is_clean and not self.silent

    def is_healthy(self, now: float) -> bool:
        return not self.silent and self.link.allows(now) and self.breaker.allows(now)

    def next_change(self, now: float) -> float:
        """Return when a probe is due next; infinity if time alone changes nothing."""
        due = (one.half_open_at for one in (self.link, self.breaker) if one.is_open and one.half_open_at > now)
        return min(due, default=float("inf"))

    def acquire_probe(self, now: float) -> bool:
        """Register a request. Return True if it is a probe."""
        link, breaker = self.link.acquire_probe(now), self.breaker.acquire_probe(now)
        return link or breaker

    def release_probe(self) -> None:
        self.link.release_probe()
        self.breaker.release_probe()

    def record_success(self, sent: float) -> bool:
        """Return True if it closed a breaker, or ended a silence."""
        link, breaker = self.link.record_success(sent), self.breaker.record_success(sent)
        was_silent, self.silent = self.silent, False
        return link or breaker or was_silent

    def record_failure(self, failure: AttemptFailed, sent: float, now: float) -> None:
        """Every response, good or bad, shows that the connection works."""
        if isinstance(failure, Lost):
            self.link.record_failure(sent, now, firm=failure.engine_dead)
            self.breaker.release_probe()
            return
        self.link.record_success(sent)
        if isinstance(failure, Unavailable | Faulty):
            self.breaker.record_failure(sent, now)
        elif isinstance(failure, Refused):
            self.breaker.record_success(sent)
        else:  # Busy, Unable and ModelGone say nothing about health
            self.breaker.release_probe()

    def penalty(self, now: float) -> float:
        """Factor on the worker's score after bad responses; 1 without.

        A worker that fails at once always has free slots and would attract every request until its breaker opens.
        An open breaker needs no penalty: the worker is then chosen only in a panic.
        """
        recent = not self.breaker.is_open and now - self.breaker.failed_at < PENALTY_DURATION
        return PENALTY_FACTOR ** min(self.breaker.failures, MAX_PENALTIES) if recent else 1.0

    def record_beat(self) -> bool:
        """Return True if it closed `link`."""
        return self.link.close_once()

    def reset(self, now: float) -> None:
        """The worker is a new process."""
        self.link.reset(now)
        self.breaker.reset(now)
        self.silent = False
