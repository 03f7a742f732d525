"""Room at the workers, given to the requests that wait for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from vllama_pool.router.admission.fair_order import FairOrder
from vllama_pool.router.admission.tenant import Tenant

NEVER = float("inf")
_SOONEST = 0.01
"""Seconds until a due time that is past is looked at again."""


class Waiter(Protocol):
    """A request that waits."""

    def __hash__(self) -> int: ...

    def take(self) -> bool:
        """Take a worker now. Return False if none has room. Its owner proceeds after True, also without a worker."""

    def due(self) -> float:
        """Return the monotonic time in seconds at which, without an event, a worker may get room; inf for never."""


class Absence:
    """The time in which requests of a line had no healthy worker."""

    __slots__ = ("latest", "since")

    def __init__(self) -> None:
        self.since: float | None = None
        """Monotonic seconds; None while there is a healthy worker."""
        self.latest = -NEVER
        """The end of the latest absence, in monotonic seconds."""

    def note(self, now: float, *, absent: bool) -> None:
        if absent:
            self.since = now if self.since is None else self.since
        elif self.since is not None:
            self.since, self.latest = None, now

    def touched(self, since: float) -> bool:
        """True if there was an absence at or after that time."""
        return self.since is not None or self.latest >= since


class Line:
    """Requests that the same workers may answer."""

    __slots__ = ("absence", "order", "served")

    def __init__(self) -> None:
        self.order: FairOrder[Waiter] = FairOrder()
        self.served = 0
        """Number of its latest turn."""
        self.absence = Absence()
        """Kept by its requests."""

    def add(self, waiter: Waiter, tenant: Tenant) -> bool:
        """Return True if it is the first: what it waits for may have happened while nobody did."""
        self.order.add(waiter, tenant)
        return len(self.order) == 1

    def remove(self, waiter: Waiter) -> bool:
        """Return False if the waiter has had its turn."""
        if waiter not in self.order:
            return False
        self.order.remove(waiter)
        return True

    def give_turn(self) -> bool:
        """Let the next request take a worker. Return False if it cannot."""
        if not self.order or not self.order.first.take():
            return False
        self.order.pop()
        return True


class Later(Protocol):
    def __call__(self, delay: float, action: Callable[[], None], /) -> Cancellable:
        """Call `action` after `delay` seconds, 0 for as soon as the present events are handled."""


class Cancellable(Protocol):
    def cancel(self) -> None: ...


class Watched(Protocol):
    """Tells when a worker may have room."""

    def watch(self, notify: Callable[[], None]) -> None: ...
    def unwatch(self) -> None: ...


class Turns:
    """Gives room at the workers to the lines of all models: one request of each in turn, the longest not served first.

    Each turn takes a worker at once, so that as many requests proceed as there is room for. Events of one pass of the
    event loop are handled together, after it. Nothing is polled.
    """

    def __init__(self, vacancies: Watched, later: Later, clock: Callable[[], float]) -> None:
        """`clock` returns monotonic seconds."""
        self._vacancies = vacancies
        self._later = later
        self._clock = clock
        self._lines: dict[Line, None] = {}
        self._given = 0
        self._pending: Cancellable | None = None
        self._pending_at = NEVER

    def __repr__(self) -> str:
        return f"<Turns of {len(self._lines)} lines>"

    def add(self, line: Line, waiter: Waiter, tenant: Tenant) -> None:
        if not self._lines:
            self._vacancies.watch(self.note)
        self._lines[line] = None
        if line.add(waiter, tenant):
            self.note()

    def remove(self, line: Line, waiter: Waiter) -> bool:
        """Remove a request, before or after its turn. Return True if none is left in the line."""
        waited = line.remove(waiter)
        if line.order:
            if waited:
                self.note()  # the next one may take a worker that this one could not
            return False
        self._lines.pop(line, None)
        if not self._lines:
            self._vacancies.unwatch()
            self._cancel()
        return True

    def note(self) -> None:
        """A worker may have room."""
        self._schedule(0.0)

    def _schedule(self, delay: float) -> None:
        at = self._clock() + delay if delay else 0.0
        if at < self._pending_at:
            self._cancel()
            self._pending, self._pending_at = self._later(delay, self._give), at

    def _cancel(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
        self._pending, self._pending_at = None, NEVER

    def _give(self) -> None:
        self._pending, self._pending_at = None, NEVER
        for line in self._rounds():
            self._given += 1
            line.served = self._given
        due = min((line.order.first.due() for line in self._lines if line.order), default=NEVER)
        if due < NEVER:
            self._schedule(max(due - self._clock(), _SOONEST))

    def _rounds(self) -> Iterator[Line]:
        """Yield each line that has had a turn, until none can have another."""
        lines: Iterable[Line] = sorted(self._lines, key=_served)
        while lines:
            served = []
            for line in lines:
                if line.give_turn():
                    served.append(line)
                    yield line
            lines = served


def _served(line: Line) -> int:
    return line.served
