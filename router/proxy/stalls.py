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
    """A request in progress on a worker."""

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
    def waits_for_client(self) -> bool:
        """True if the client holds up the response."""

    def abort(self, text: str) -> None:
        """End the request with the client's error."""


@dataclass(frozen=True, slots=True)
class StallLimits:
    """Longest silence of a worker, in seconds."""

    unresponsive_worker: float = 3.0
    """If it is down or sleeps."""
    first_content: float = 300.0
    """Before the first content."""
    mid_response: float = 120.0
    """After the first content."""


class StallWatch:
    """Checks all requests in progress every `interval` seconds."""

    def __init__(self, limits: StallLimits, *, interval: float = 0.5) -> None:
        self._limits = limits
        self._interval = interval
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
        while True:
            await asyncio.sleep(self._interval)
            self.check(asyncio.get_running_loop().time())

    def check(self, now: float) -> None:
        for watched in tuple(self._watched):
            reason = "" if watched.waits_for_client else self._stall_reason(watched, now - watched.last_progress)
            if reason:
                watched.abort(reason)

    def _stall_reason(self, watched: Watched, silence: float) -> str:
        limits = self._limits
        if not watched.begun and silence > limits.first_content:
            return f"the worker did not begin to answer within {limits.first_content:g} s"
        if watched.begun and silence > limits.mid_response:
            return f"the worker fell silent for {limits.mid_response:g} s in the middle of its answer"
        if silence > limits.unresponsive_worker and watched.worker_unresponsive:
            return "the worker stopped responding"
        return ""
