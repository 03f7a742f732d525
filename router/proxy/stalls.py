"""Giving up on workers that have fallen silent.

A long prefill is no fault, so silence alone ends nothing early: only when the worker's beats have stopped too, or
when silence lasts longer than anybody should wait. One background task looks at everything in progress, instead
of a timer per request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol


class Watched(Protocol):
    """Something that waits for a worker."""

    @property
    def last_progress(self) -> float:
        """When the worker was last heard, on the loop's clock; before the first content, when it was asked."""

    @property
    def begun(self) -> bool:
        """Whether the first content of the answer has come."""

    @property
    def worker_unresponsive(self) -> bool:
        """True if the worker is down or sleeps: its silence is not a long prefill."""

    @property
    def excused(self) -> bool:
        """Whether the wait is not the worker's doing."""

    def give_up(self, text: str) -> None:
        """Stop waiting. `text` says why, for the client."""


@dataclass(frozen=True, slots=True)
class StallLimits:
    """In seconds."""

    unresponsive_worker: float = 3.0
    """Longest silence of a worker that is down or sleeps."""
    first_content: float = 300.0
    """For how long any worker may take until its answer begins."""
    in_answer: float = 120.0
    """For how long any worker may say nothing once it has begun."""


class StallWatch:
    """Looks after everything that waits for a worker."""

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
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._every)
            self.look(asyncio.get_running_loop().time())

    def look(self, now: float) -> None:
        """Give up on what has waited too long at `now`."""
        for watched in tuple(self._watched):
            reason = "" if watched.excused else self._too_long(watched, now - watched.last_progress)
            if reason:
                watched.give_up(reason)

    def _too_long(self, watched: Watched, silence: float) -> str:
        """Why nobody should wait any longer; empty while waiting makes sense."""
        limits = self._limits
        if not watched.begun and silence > limits.first_content:
            return f"the worker did not begin to answer within {limits.first_content:g} s"
        if watched.begun and silence > limits.in_answer:
            return f"the worker fell silent for {limits.in_answer:g} s in the middle of its answer"
        if silence > limits.unresponsive_worker and watched.worker_unresponsive:
            return "the worker stopped responding"
        return ""
