"""The engine: slots, a FIFO queue and steps. Times are in seconds.

A step gives each running sequence one token, as in continuous batching.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol


class Sequence(Protocol):
    prompt_tokens: int
    count: int
    """Generated tokens."""

    def step(self, now: float) -> str:
        """Generate one token. Returns the finish reason, "" before the last token."""


@dataclass(frozen=True, slots=True)
class Pace:
    slots: int
    tokens_per_second: float
    """Rate of one sequence."""
    total_tokens_per_second: float = 0.0
    """Limit for all sequences; 0 for none."""
    ttft: float = 0.0
    """Time to first token of any prompt."""
    prefill_tokens_per_second: float = 0.0
    """Adds to `ttft`; 0 for none."""

    def interval(self, running: int, slow: float = 1.0) -> float:
        step = 1.0 / self.tokens_per_second
        if self.total_tokens_per_second:
            step = max(step, running / self.total_tokens_per_second)
        return step * slow

    def prefill(self, prompt_tokens: int) -> float:
        """Seconds from slot to first token."""
        if not self.prefill_tokens_per_second:
            return self.ttft
        return self.ttft + prompt_tokens / self.prefill_tokens_per_second


@dataclass(slots=True, eq=False)
class Entry:
    """Compared by identity."""

    sequence: Sequence
    arrived: float
    scheduled: float = 0.0
    ready: float = 0.0
    """End of the prefill."""
    first: float = 0.0
    """0 before the first token."""
    last: float = 0.0


class Observer(Protocol):
    def stepped(self, tokens: int, interval: float) -> None: ...

    def finished(self, entry: Entry, reason: str, now: float) -> None: ...


class Pause(enum.Enum):
    """Scheduling of accepted requests."""

    NONE = enum.auto()
    NEW = enum.auto()
    """Running sequences continue; waiting ones do not start."""
    ALL = enum.auto()


@dataclass(slots=True)
class Engine:
    """The owner calls `step` at the pace's interval."""

    pace: Pace
    observer: Observer | None = None
    running: list[Entry] = field(default_factory=list)
    waiting: deque[Entry] = field(default_factory=deque)
    pause: Pause = Pause.NONE
    _last_waiting: int = 0

    def submit(self, sequence: Sequence, now: float) -> Entry:
        entry = Entry(sequence, now)
        self.waiting.append(entry)
        self._schedule(now)
        return entry

    def abort(self, entry: Entry, now: float) -> bool:
        """Returns False if the sequence has left."""
        if entry in self.running:
            self.running.remove(entry)
        elif entry in self.waiting:
            self.waiting.remove(entry)
        else:
            return False
        self._schedule(now)
        return True

    def step(self, now: float) -> int:
        """Returns the number of tokens."""
        if self.pause is Pause.ALL:
            return 0
        tokens = 0
        over: list[tuple[Entry, str]] = []
        for entry in self.running:
            if entry.ready > now:
                continue
            reason = entry.sequence.step(now)
            tokens += 1
            if not entry.first:
                entry.first = now
            entry.last = now
            if reason:
                over.append((entry, reason))
        if over:
            self._release(over, now)
        if self.observer is not None and tokens:
            self.observer.stepped(tokens, self.pace.interval(len(self.running)))
        return tokens

    def clear(self) -> list[Entry]:
        entries = [*self.running, *self.waiting]
        self.running.clear()
        self.waiting.clear()
        return entries

    def suspend(self, pause: Pause) -> None:
        self._last_waiting = len(self.waiting)
        self.pause = pause

    def resume(self, now: float) -> None:
        self.pause = Pause.NONE
        self._schedule(now)

    @property
    def can_step(self) -> bool:
        return bool(self.running) and self.pause is not Pause.ALL

    @property
    def last_waiting(self) -> int:
        """Waiting sequences as of the last step, because vLLM updates its gauges only then."""
        if self.pause is Pause.NONE or self.can_step:
            self._last_waiting = len(self.waiting)
        return self._last_waiting

    @property
    def tokens_held(self) -> int:
        """Includes prompts."""
        return sum(entry.sequence.prompt_tokens + entry.sequence.count for entry in self.running)

    def _release(self, over: list[tuple[Entry, str]], now: float) -> None:
        gone = {id(entry) for entry, _ in over}
        self.running = [entry for entry in self.running if id(entry) not in gone]
        for entry, reason in over:
            if self.observer is not None:
                self.observer.finished(entry, reason, now)
        self._schedule(now)

    def _schedule(self, now: float) -> None:
        while self.pause is Pause.NONE and self.waiting and len(self.running) < self.pace.slots:
            entry = self.waiting.popleft()
            entry.scheduled = now
            entry.ready = now + self.pace.prefill(entry.sequence.prompt_tokens)
            self.running.append(entry)
