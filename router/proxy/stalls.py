"""Ends requests whose worker has stalled.

A long prefill is silent too, so a request ends early only if its worker is also unresponsive; otherwise after a long
time-out. That one counts from the request, and then from the latest content: bytes that are not content, such as the
comments of a proxy, do not prolong it. One background task checks all requests, instead of a timer per request.
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
    def sent(self) -> float:
        """Time of the request, on the loop's clock."""

    @property
    def progress(self) -> int:
        """Changes with each content of the answer."""

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
    """Longest waits for a worker, in seconds."""

    unresponsive_worker: float = 3.0
    """For any bytes of one that is down or sleeps."""
    first_content: float = 300.0
    """From the request to the first content."""
    mid_response: float = 120.0
    """From one content to the next."""
    whole_answer: float = 1800.0
    """From the request to the answer of a worker that is silent until its answer is complete."""


class StallWatch:
    """Checks all requests in progress every `interval` seconds."""

    def __init__(self, *, interval: float = 0.5) -> None:
        self._interval = interval
        self._watched: set[Watched] = set()
        self._progress: dict[Watched, tuple[int, float]] = {}
        """Progress of the answers that have begun, and when it was made."""
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
        known, self._progress = self._progress, {}
        for watched in tuple(self._watched):
            heard = watched.last_heard
            if heard is None:
                continue
            since = heard
            if watched.begun:
                since = self._last_progress(watched, known.get(watched), heard)
            if reason := _stall_reason(watched, now, heard, since):
                watched.abort(reason)

    def _last_progress(self, watched: Watched, before: tuple[int, float] | None, heard: float) -> float:
        progress = watched.progress
        latest = before if before is not None and before[0] == progress else (progress, heard)
        self._progress[watched] = latest
        return latest[1]


def _stall_reason(watched: Watched, now: float, heard: float, since: float) -> str:
    """`heard`: time of the latest bytes. `since`: of the latest content."""
    limits = watched.limits
    if watched.answers_whole:
        if now - watched.sent > limits.whole_answer:
            return f"the worker did not complete its answer within {limits.whole_answer:g} s"
    elif not watched.begun:
        if now - watched.sent > limits.first_content:
            return f"the worker did not begin to answer within {limits.first_content:g} s"
    elif now - heard > limits.mid_response:
        return f"the worker fell silent for {limits.mid_response:g} s in the middle of its answer"
    elif now - since > limits.mid_response:
        return f"the worker sent nothing of its answer for {limits.mid_response:g} s"
    if now - heard > limits.unresponsive_worker and watched.worker_unresponsive:
        return "the worker stopped responding"
    return ""
