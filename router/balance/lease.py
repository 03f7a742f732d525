"""A lease counts one request in flight on a worker, and is released exactly once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vllama_pool.router.balance.worker import Worker
from vllama_pool.router.errors import AttemptFailed


@dataclass(slots=True)
class Completed:
    """The worker's response was complete."""

    tokens: int
    """Tokens generated."""


@dataclass(slots=True)
class Errored:
    """The attempt failed or the stream broke."""

    failure: AttemptFailed


@dataclass(slots=True)
class Abandoned:
    """The client disconnected, or the router stopped the request. No effect on the worker's health."""


Outcome = Completed | Errored | Abandoned

ABANDONED = Abandoned()


class Lease:
    """Counts one request until `release`, which its owner calls on every path; it is idempotent."""

    __slots__ = (*("worker", "model", "released", "_clock", "_sent", "_probe", "_full_load", "_has_content"),)

    def __init__(self, worker: Worker, model: str, clock: Callable[[], float]) -> None:
        self.worker = worker
        self.model = model
        """The served name; "" if it does not matter."""
        self.released = False
        self._clock = clock
        self._sent = sent = clock()
        self._probe = worker.begin_request(sent)
        self._full_load = worker.load if worker.full else 0  # at the start; 0 if slots were free
        self._has_content = False

    def __repr__(self) -> str:
        return f"<Lease on {self.worker.id}{', released' if self.released else ''}>"

    @property
    def sent(self) -> float:
        """Monotonic seconds, on the pool's clock."""
        return self._sent

    def record_first_content(self) -> None:
        """Count the first content as a success, as the rest may take minutes. Idempotent."""
        if not self._has_content and not self.released:
            self._has_content = True
            self._probe = False
            worker = self.worker
            worker.answered_at = now = self._clock()
            if worker.troubled:
                worker.record_success(self._sent, now)

    def release(self, outcome: Outcome) -> None:
        """End the request and record its effect on the worker's health and speed."""
        if self.released:
            return
        self.released = True
        worker = self.worker
        if isinstance(outcome, Completed):
            if worker.troubled:
                worker.record_success(self._sent, self._clock())
            if self._full_load and worker.full:
                now = self._clock()
                load = (self._full_load + worker.load) / 2
                worker.speed.rate.record_response(outcome.tokens, now - self._sent, load, now)
        elif isinstance(outcome, Errored):
            worker.record_failure(outcome.failure, self.model, self._sent, self._clock())
        elif self._probe:
            worker.release_probe()
        worker.end_request()
