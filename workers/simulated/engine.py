"""The engine's model: slots, a queue behind them, and steps. Pure; time is passed in, in seconds.

As in continuous batching, every step gives each running sequence one token. Sequences beyond the slots wait,
first in, first out, and take a slot as soon as one is free. A sequence with its slot first spends its prefill
time; then it takes part in the steps.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol


class Sequence(Protocol):
    """What the engine runs."""

    prompt_tokens: int
    count: int
    """Tokens generated so far."""

    def step(self, now: float) -> str:
        """Generate one token. Returns why the sequence ends with it ("stop", "length", …), else ""."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast an engine works."""

    slots: int
    """Sequences that run at once."""
    tokens_per_second: float
    """Of one sequence."""
    total_tokens_per_second: float = 0.0
    """Bound on all sequences together; the steps get slower when it is met. 0 for none."""
    ttft: float = 0.0
    """Seconds of prefill, whatever the prompt."""
    prefill_tokens_per_second: float = 0.0
    """Adds the prompt's tokens at this rate to the prefill. 0 for nothing."""

    def interval(self, running: int, slow: float = 1.0) -> float:
        """Seconds from one step to the next."""
        step = 1.0 / self.tokens_per_second
        if self.total_tokens_per_second:
            step = max(step, running / self.total_tokens_per_second)
        return step * slow

    def prefill(self, prompt_tokens: int) -> float:
        """Seconds from a slot to the first token."""
        if not self.prefill_tokens_per_second:
            return self.ttft
        return self.ttft + prompt_tokens / self.prefill_tokens_per_second


@dataclass(slots=True, eq=False)
class Entry:
    """A sequence in the engine, and when things happened to it. Two that look alike are still two."""

    sequence: Sequence
    arrived: float
    scheduled: float = 0.0
    ready: float = 0.0
    """When its prefill is over."""
    first: float = 0.0
    """When its first token came. 0 before."""
    last: float = 0.0


class Observer(Protocol):
    """Told what the engine did, for metrics."""

    def stepped(self, tokens: int, interval: float) -> None: ...

    def finished(self, entry: Entry, reason: str, now: float) -> None: ...


@dataclass(slots=True)
class Engine:
    """One engine. Its owner calls `step` at the pace's interval."""

    pace: Pace
    observer: Observer | None = None
    running: list[Entry] = field(default_factory=list)
    waiting: deque[Entry] = field(default_factory=deque)
    paused: bool = False
    """Asleep: sequences are taken but nothing moves, and nothing is counted as waiting or running."""

    def submit(self, sequence: Sequence, now: float) -> Entry:
        """Take a sequence in: into a slot if one is free, else to the end of the queue."""
        entry = Entry(sequence, now)
        self.waiting.append(entry)
        if not self.paused:
            self._schedule(now)
        return entry

    def abort(self, entry: Entry, now: float) -> bool:
        """Drop a sequence wherever it is. False if it had left before."""
        if entry in self.running:
            self.running.remove(entry)
        elif entry in self.waiting:
            self.waiting.remove(entry)
        else:
            return False
        if not self.paused:
            self._schedule(now)
        return True

    def step(self, now: float) -> int:
        """Every running sequence past its prefill gets one token. Returns how many did."""
        if self.paused:
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
        """Take everything out and return it."""
        entries = [*self.running, *self.waiting]
        self.running.clear()
        self.waiting.clear()
        return entries

    def resume(self, now: float) -> None:
        """Go on after `paused`."""
        self.paused = False
        self._schedule(now)

    @property
    def tokens_held(self) -> int:
        """Tokens of the running sequences, prompts included: what fills the KV cache."""
        return sum(entry.sequence.prompt_tokens + entry.sequence.count for entry in self.running)

    def _release(self, over: list[tuple[Entry, str]], now: float) -> None:
        gone = {id(entry) for entry, _ in over}
        self.running = [entry for entry in self.running if id(entry) not in gone]
        for entry, reason in over:
            if self.observer is not None:
                self.observer.finished(entry, reason, now)
        self._schedule(now)

    def _schedule(self, now: float) -> None:
        while self.waiting and len(self.running) < self.pace.slots:
            entry = self.waiting.popleft()
            entry.scheduled = now
            entry.ready = now + self.pace.prefill(entry.sequence.prompt_tokens)
            self.running.append(entry)
