"""When to beat early, the token rate, and when a draining server is idle. Pure.

Times are seconds on the caller's monotonic clock.
"""

from __future__ import annotations

from collections import deque

from vllama_pool.workers.registry.record import Load
from vllama_pool.workers.vllm.probe import Metrics

UNKNOWN_SLOTS = 8
"""What counts as all slots where nobody knows, for early beats only."""


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
