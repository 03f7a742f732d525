"""A lease counts one request in flight on a worker, and is released exactly once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vllama_pool.router.balance.worker import Worker
from vllama_pool.router.errors import AttemptFailed


@dataclass(frozen=True, slots=True)
class Completed:
    """The worker's response was complete."""

    tokens: int
    """Tokens generated."""


@dataclass(frozen=True, slots=True)
class Errored:
    """The attempt failed or the stream broke. The kind of failure decides the effect on the worker's health."""

    failure: AttemptFailed


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The client left, or the router stopped the request. Has no effect on the worker's health."""


Outcome = Completed | Errored | Abandoned


class Lease:
    """Counts one request on a worker from dispatch until `release`.

    The owner of the response calls `release` on every path. It is idempotent.
    """

    def __init__(self, worker: Worker, model: str, clock: Callable[[], float]) -> None:
        self.worker = worker
        self.model = model
        """The served name; "" if it does not matter."""
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
        """Record the first content as a success, as the response may take minutes. Idempotent."""
        if not self._begun and not self.released:
            self._begun = True
            self._probe = False
            self.worker.answered(self._sent, self._clock())

    def release(self, outcome: Outcome) -> None:
        """Release the slot and record the outcome in the worker's health and speed."""
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
                    self.worker.health.abandon_probe()
        self.worker.finished()
