"""Ends requests whose worker has stalled.

A long prefill is silent too, so a request ends early only if its worker is also unresponsive; otherwise after a long
time-out. One background task checks all requests, instead of a timer per request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from vllama_pool.router.proxy.lease_audit import Holder


class Watched(Holder, Protocol):
    """A request in progress on a worker."""

    @property
    def last_heard(self) -> float | None:
        """Time of the worker's latest bytes, or of the request before them; on the loop's clock. None while nothing is
        expected of a worker, such as while the client holds up the response."""

    @property
    def begun(self) -> bool:
        """True after the first content."""

    @property
    def answers_whole(self) -> bool:
        """True if the worker is silent until its answer is complete."""

    @property
    def worker_unresponsive(self) -> bool:
        """True if the worker is down or sleeps: its silence is not a long prefill."""

    @property
    def limits(self) -> StallLimits: ...

    def abort(self, text: str) -> None:
        """End the present exchange as timed out. `text` is the client's error."""


@dataclass(frozen=True, slots=True)
class StallLimits:
    """Longest silence of a worker, in seconds."""

    unresponsive_worker: float = 3.0
    """If it is down or sleeps."""
    first_content: float = 300.0
    """Before the first content."""
    mid_response: float = 120.0
    """After the first content."""
    whole_answer: float = 1800.0
    """Of a worker that is silent until its answer is complete."""


class StallWatch:
    """Checks all requests in progress every `interval` seconds."""

    def __init__(self, *, interval: float = 0.5) -> None:
        self._interval = interval
        self._watched: set[Watched] = set()
        self.watch = self._watched.add
        self.unwatch = self._watched.discard
        """Idempotent."""

    def __repr__(self) -> str:
        return f"<StallWatch {len(self._watched)} watched>"

    @property
    def watched(self) -> Collection[Watched]:
        """All requests in progress."""
        return self._watched

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            self.check(asyncio.get_running_loop().time())

    def check(self, now: float) -> None:
        for watched in tuple(self._watched):
            heard = watched.last_heard
            if heard is not None and (reason := _stall_reason(watched, now - heard)):
                watched.abort(reason)


def _stall_reason(watched: Watched, silence: float) -> str:
    limits = watched.limits
    if watched.answers_whole:
        if silence > limits.whole_answer:
            return f"the worker did not complete its answer within {limits.whole_answer:g} s"
    elif not watched.begun and silence > limits.first_content:
        return f"the worker did not begin to answer within {limits.first_content:g} s"
    elif watched.begun and silence > limits.mid_response:
        return f"the worker fell silent for {limits.mid_response:g} s in the middle of its answer"
    if silence > limits.unresponsive_worker and watched.worker_unresponsive:
        return "the worker stopped responding"
    return ""
