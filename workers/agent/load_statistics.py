"""Token rate, idle detection and significance of load changes. Pure. Times are monotonic seconds."""

from __future__ import annotations

from collections import deque

from vllama_pool.workers.registry.record import LoadReport
from vllama_pool.workers.vllm.probe import Metrics

DEFAULT_SLOTS = 8
"""Assumed for workers with unknown slots."""


class TokenRate:
    """Computes tokens per second over 1-2 s from a counter that may reset."""

    def __init__(self, window: float = 1.0) -> None:
        self._window = window
        self._samples: deque[tuple[float, int]] = deque()

    def update(self, now: float, count: int) -> float:
        if self._samples and count < self._samples[-1][1]:
            self._samples.clear()
        self._samples.append((now, count))
        while len(self._samples) > 2 and now - self._samples[1][0] >= self._window:
            self._samples.popleft()
        start, before = self._samples[0]
        return (count - before) / (now - start) if now > start else 0.0


class IdleDetector:
    """Requires idle polls over `duration` seconds, because gauges omit requests that vLLM has not yet scheduled."""

    def __init__(self, duration: float = 1.0) -> None:
        self._duration = duration
        self._since: float | None = None

    def update(self, now: float, metrics: Metrics) -> bool:
        if metrics.running or metrics.waiting:
            self._since = None
            return False
        if self._since is None:
            self._since = now
            return False
        return now - self._since >= self._duration


def is_significant_change(sent: LoadReport | None, load: LoadReport, slots: int) -> bool:
    """Return True for a new state, note or exit, or a change by a quarter of the slots."""
    if sent is None or sent.state != load.state or sent.note != load.note or sent.exit != load.exit:
        return True
    step = max(1.0, (slots or DEFAULT_SLOTS) / 4)
    return abs(load.running - sent.running) >= step or abs(load.waiting - sent.waiting) >= step
