"""A queue in front of a limited number of places: first in, first out within a tenant, weighted fair among tenants.

A queue knows no event loop. Who waits is told by a callback, and whether a place is held is a property of the ticket,
so a turn, a time-out and a leaving client may meet in any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from vllama_pool.router.admission.busy import BUSY
from vllama_pool.router.admission.drain_rate import MAX_RETRY_AFTER
from vllama_pool.router.admission.fair_order import FairOrder
from vllama_pool.router.admission.tenant import ANYBODY, Tenant
from vllama_pool.router.errors import ClientError, ServerBusy

_SMOOTHING = 0.1
"""Weight of the latest request in the mean duration."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """The share of one router process."""

    places: int | None
    """Requests in progress; None for any number."""
    length: int
    """Waiting requests."""
    wait: float | None = None
    """Longest wait, in seconds."""


UNLIMITED = QueueLimits(None, 0)


class Ticket:
    """A request's place in a queue: it waits, then holds, then has ended. Its owner calls `end` on every path."""

    __slots__ = ("_queue", "ended", "held_since", "on_turn")

    def __init__(self, queue: AdmissionQueue) -> None:
        self._queue = queue
        self.held_since: float | None = None
        """Time of its turn; None before."""
        self.ended = False
        self.on_turn: Callable[[], None] | None = None
        """Called once if its turn comes later than `enter`."""

    def __repr__(self) -> str:
        return f"<Ticket {'ended' if self.ended else 'holds' if self.holds else 'waits'}>"

    @property
    def holds(self) -> bool:
        return self.held_since is not None and not self.ended

    def end(self) -> None:
        """Free its place, for the next that waits. Idempotent."""
        if not self.ended:
            self.ended = True
            self._queue.leave(self)


class AdmissionQueue:
    """Owns the places. Those that wait get them in a fair order."""

    def __init__(self, limits: QueueLimits, clock: Callable[[], float]) -> None:
        """`clock` returns monotonic seconds."""
        self._limits = limits
        self._clock = clock
        self._waiting: FairOrder[Ticket] = FairOrder()
        self._mean_duration = 0.0
        self.in_progress = 0
        """Requests that hold a place. More than the limit after it was lowered, until enough have ended."""

    def __repr__(self) -> str:
        return f"<AdmissionQueue {self.in_progress} in progress, {self.waiting} waiting>"

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def limits(self) -> QueueLimits:
        return self._limits

    @property
    def is_idle(self) -> bool:
        return not self.in_progress and not self._waiting

    def enter(self, tenant: Tenant = ANYBODY) -> Ticket:
        """Take a place, or wait for one. Raises ServerBusy if the queue is full."""
        ticket = Ticket(self)
        if self._has_room():
            self._hand_over(ticket)
        elif len(self._waiting) < self._limits.length:
            self._waiting.add(ticket, tenant)
        else:
            raise self.busy()
        return ticket

    def busy(self) -> ClientError:
        """Return the error of a request that may not wait, or not longer."""
        return ServerBusy(BUSY, retry_after=self.retry_after())

    def retry_after(self) -> int:
        """Return the seconds in which those that wait now, and one more, get their turn."""
        rounds = (len(self._waiting) + 1) / max(1, self._limits.places or 1)
        return max(1, min(MAX_RETRY_AFTER, math.ceil(rounds * self._mean_duration)))

    def set_limits(self, limits: QueueLimits) -> None:
        """Change the limits. Requests that have a place or wait for one keep it."""
        self._limits = limits
        self._advance()

    def leave(self, ticket: Ticket) -> None:
        """Called by the ticket, once."""
        if ticket.held_since is None:
            self._waiting.remove(ticket)
            return
        self.in_progress -= 1
        duration = self._clock() - ticket.held_since
        weight = _SMOOTHING if self._mean_duration else 1.0
        self._mean_duration += weight * (duration - self._mean_duration)
        self._advance()

    def _has_room(self) -> bool:
        return self._limits.places is None or self.in_progress < self._limits.places

    def _advance(self) -> None:
        while self._waiting and self._has_room():
            ticket = self._waiting.pop()
            self._hand_over(ticket)
            if ticket.on_turn is not None:
                ticket.on_turn()

    def _hand_over(self, ticket: Ticket) -> None:
        self.in_progress += 1
        ticket.held_since = self._clock()
