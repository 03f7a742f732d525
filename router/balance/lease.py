"""A lease: one request's place in a worker, given back exactly once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vllama_pool.router.balance.worker import Worker
from vllama_pool.router.errors import AttemptFailed


@dataclass(frozen=True, slots=True)
class Completed:
    """The worker's answer was whole."""

    tokens: int
    """Tokens it made."""


@dataclass(frozen=True, slots=True)
class Errored:
    """The attempt failed, or the stream broke; what kind of failure decides what that says of the worker."""

    failure: AttemptFailed


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The client left, or the router stopped the request for reasons of its own. Says nothing of the worker."""


Outcome = Completed | Errored | Abandoned


class Lease:
    """Counts one request against a worker from dispatch until `release`.

    Its owner is whoever owns the response; it calls `release` on every path. Further calls do nothing.
    """

    def __init__(self, worker: Worker, model: str, clock: Callable[[], float]) -> None:
        self.worker = worker
        self.model = model
        """The served name asked for; "" where it does not matter."""
        self.released = False
        self._clock = clock
        self._sent = clock()
        self._probe = worker.dispatched(self._sent)
        self._load = worker.load
        self._full = worker.full
        self._begun = False

    def __repr__(self) -> str:
        return f"<Lease on {self.worker.id}{', released' if self.released else ''}>"

    def begun(self) -> None:
        """The first content has come: the worker is well, though the answer may take minutes yet. Idempotent."""
        if not self._begun and not self.released:
            self._begun = True
            self._probe = False
            self.worker.answered(self._sent, self._clock())

    def release(self, outcome: Outcome) -> None:
        """Give the place back, and tell the worker's health and speed how it went."""
        if self.released:
            return
        self.released = True
        now = self._clock()
        match outcome:
            case Completed(tokens=tokens):
                self.worker.answered(self._sent, now)
                load = (self._load + self.worker.load) / 2
                full = self._full and self.worker.full
                self.worker.rate.measured(tokens, now - self._sent, load, full, now)
            case Errored(failure=failure):
                self.worker.failed(failure, self.model, self._sent, now)
            case Abandoned():
                if self._probe:
                    self.worker.health.abandoned()
        self.worker.finished()
