"""Ends requests whose worker has stalled.

A long prefill is silent too, so a request ends early only if its worker is also unresponsive; otherwise after a long
time-out. One background task checks all requests, instead of a timer per request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol


class Watched(Protocol):
    """A request that waits for a worker."""

    @property
    def last_progress(self) -> float:
        """Time of the worker's latest bytes, or of the request before them; on the loop's clock."""

    @property
    def begun(self) -> bool:
        """True after the first content."""

    @property
    def worker_unresponsive(self) -> bool:
        """True if the worker is down or sleeps: its silence is not a long prefill."""

    @property
    def excused(self) -> bool:
        """True if the wait is not caused by the worker."""

    def give_up(self, text: str) -> None:
        """End the request. `text` is the client's error."""


@dataclass(frozen=True, slots=True)
class StallLimits:
    """In seconds."""

    unresponsive_worker: float = 3.0
    """Longest silence of a worker that is down or sleeps."""
    first_content: float = 300.0
    """Longest time until the first content."""
    in_answer: float = 120.0
    """Longest silence after the first content."""


class StallWatch:
    """Checks all requests that wait for a worker."""

    def __init__(self, limits: StallLimits, *, every: float = 0.5) -> None:
        self._limits = limits
        self._every = every
        self._watched: set[Watched] = set()

    def __repr__(self) -> str:
        return f"<StallWatch {len(self._watched)} watched>"

    @contextmanager
    def watching(self, watched: Watched) -> Iterator[None]:
        self._watched.add(watched)
        try:
            yield
        finally:
            self._watched.discard(watched)

    async def run(self) -> None:
        """Check periodically, until cancelled."""
        while True:
            await asyncio.sleep(self._every)
            self.look(asyncio.get_running_loop().time())

    def look(self, now: float) -> None:
        """End the requests that have stalled at `now`."""
        for watched in tuple(self._watched):
            reason = "" if watched.excused else self._too_long(watched, now - watched.last_progress)
            if reason:
                watched.give_up(reason)

    def _too_long(self, watched: Watched, silence: float) -> str:
        """Return the reason to end the request, or ""."""
        limits = self._limits
        if not watched.begun and silence > limits.first_content:
            return f"the worker did not begin to answer within {limits.first_content:g} s"
        if watched.begun and silence > limits.in_answer:
            return f"the worker fell silent for {limits.in_answer:g} s in the middle of its answer"
        if silence > limits.unresponsive_worker and watched.worker_unresponsive:
            return "the worker stopped responding"
        return ""
