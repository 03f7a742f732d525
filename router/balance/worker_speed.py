"""The speed of a worker in scores. No I/O; time is passed in."""

from __future__ import annotations

from vllama_pool.router.balance.pace import Pace
from vllama_pool.router.balance.speed import MIN_FULL_TIME, Peers, Rate
from vllama_pool.workers.registry.record import LoadReport

SLOW_START = 10.0
"""Seconds until a new, restarted or readmitted worker gets its full share."""

INITIAL_WEIGHT = 0.1
"""Its share at first. Without it, an idle cold worker would attract every request."""


class WorkerSpeed:
    """Declared speed, measured rate and pace of one worker, and its slow start."""

    __slots__ = ("_full_since", "free", "full", "full_share_at", "pace", "peers", "rate")

    def __init__(self, declared: float, now: float) -> None:
        """`declared`: 1.0 is normal."""
        self.rate = Rate()
        self.pace = Pace(declared)
        self.peers: Peers | None = None
        """The workers of the same first model. Set by the pool."""
        self.full = declared
        """Speed when full, relative to its peers."""
        self.free = declared
        """Speed with a free slot: the declared one, less if it is far slower than its peers."""
        self.full_share_at = now + SLOW_START
        """Time at which its slow start ends."""
        self._full_since: float | None = None

    def __repr__(self) -> str:
        return f"<WorkerSpeed x{self.full:.2f} full, x{self.free:.2f} with a free slot>"

    def weight(self, now: float) -> float:
        """Factor on the speed during slow start, INITIAL_WEIGHT to 1."""
        left = min((self.full_share_at - now) / SLOW_START, 1.0)
        return 1.0 if left <= 0 else INITIAL_WEIGHT + (1 - INITIAL_WEIGHT) * (1 - left)

    def begin_slow_start(self, now: float) -> None:
        self.full_share_at = now + SLOW_START

    def declare(self, declared: float) -> None:
        """The worker declares another speed."""
        self.free = self.pace.declared = declared

    def restart(self, now: float) -> None:
        """The worker is a new process."""
        self.begin_slow_start(now)
        self.pace.forget()
        self.free = self.pace.declared

    def record_report(self, report: LoadReport, slots: int, elapsed: float, now: float) -> None:
        """Record a report, `elapsed` seconds after the previous one."""
        if not (report.waiting > 0 or 0 < slots <= report.running):
            self._full_since = None
        elif self._full_since is None:
            self._full_since = now
        full = self._full_since is not None and now - self._full_since >= MIN_FULL_TIME
        self.rate.record_report(report.tokens_per_second, full, elapsed, now)
        self.pace.record_report(report.running, report.tokens_per_second, elapsed, now)

    def compare(self, now: float) -> None:
        """Compare the worker with its peers."""
        peers, declared = self.peers, self.pace.declared
        if peers is None:
            return
        self.full = peers.speed(self.rate, declared, now)
        drag = peers.drag(self.pace, now)
        if self.free < declared and drag == 1.0:
            self.begin_slow_start(now)
        self.free = declared * drag
