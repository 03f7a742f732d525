"""Requests that wait for places which a test frees by hand."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.balance import Clock
from vllama_pool.router.admission.turns import Turns
from vllama_pool.router.balance.vacancies import Vacancies


class Handle:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Events:
    """An event loop's timers, run by hand."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._timers: list[tuple[float, Callable[[], None], Handle]] = []

    def later(self, delay: float, action: Callable[[], None]) -> Handle:
        handle = Handle()
        self._timers.append((self._clock() + delay, action, handle))
        return handle

    def run(self) -> int:
        """Run what is due. Return how many actions there were."""
        due = [timer for timer in self._timers if timer[0] <= self._clock()]
        self._timers = [timer for timer in self._timers if timer[0] > self._clock()]
        live = [action for _, action, handle in due if not handle.cancelled]
        for action in live:
            action()
        return len(live)


class Turn:
    """A request that takes a worker when `take_from` lets it."""

    def __init__(self, take_from: Callable[[], bool] = lambda: False, due: float = float("inf")) -> None:
        self._take_from = take_from
        self._due = due
        self.taken = False

    def take(self) -> bool:
        assert not self.taken, "two turns"
        self.taken = self._take_from()
        return self.taken

    def due(self) -> float:
        return self._due


def manual_turns(vacancies: Vacancies | None = None, events: Events | None = None, clock: Clock | None = None) -> Turns:
    clock = clock or Clock()
    return Turns(vacancies or Vacancies(), (events or Events(clock)).later, clock)
