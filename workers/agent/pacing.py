"""The agent's numbers: when to restart, when to beat early, how fast tokens come, when a worker is quiet. Pure.

Times are seconds on the caller's monotonic clock.
"""

from __future__ import annotations

from collections import deque

from vllama_pool.workers.registry.record import Load
from vllama_pool.workers.vllm.probe import Metrics

UNKNOWN_SLOTS = 8
"""What counts as all slots where nobody knows, for early beats only."""


class Backoff:
    """Pauses between restarts: they double from `first` to `longest`, and begin anew after good health."""

    def __init__(self, first: float = 1.0, longest: float = 60.0, settled: float = 300.0) -> None:
        self._first, self._longest, self._settled = first, longest, settled
        self._failures = 0

    def pause(self, healthy: float) -> float:
        """Seconds to wait after one more failure; `healthy` is how long it had been ready before."""
        if healthy >= self._settled:
            self._failures = 0
        self._failures += 1
        return min(self._longest, self._first * 2.0 ** min(self._failures - 1, 16))


class TokenRate:
    """Tokens per second out of a counter, over the last second or two. A counter that fell starts anew."""

    def __init__(self, window: float = 1.0) -> None:
        self._window = window
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, now: float, count: int) -> float:
        if self._seen and count < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, count))
        while len(self._seen) > 2 and now - self._seen[1][0] >= self._window:
            self._seen.popleft()
        start, before = self._seen[0]
        return (count - before) / (now - start) if now > start else 0.0


class Quiet:
    """Whether a draining server has nothing left to do: idle in each look for `lasting` seconds, at least two.

    A request that vLLM has taken but not scheduled yet is in no gauge; one look would miss it.
    """

    def __init__(self, lasting: float = 1.0) -> None:
        self._lasting = lasting
        self._since: float | None = None

    def update(self, now: float, metrics: Metrics) -> bool:
        if metrics.running or metrics.waiting:
            self._since = None
            return False
        if self._since is None:
            self._since = now
            return False
        return now - self._since >= self._lasting


def worth_telling(sent: Load | None, load: Load, slots: int) -> bool:
    """Whether routers should know before the next beat: a change of state, or a quarter of the slots."""
    if sent is None or sent.state != load.state or sent.note != load.note:
        return True
    step = max(1.0, (slots or UNKNOWN_SLOTS) / 4)
    return abs(load.running - sent.running) >= step or abs(load.waiting - sent.waiting) >= step
