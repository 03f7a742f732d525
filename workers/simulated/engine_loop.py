"""Calls the engine's steps with one timer for all sequences."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vllama_pool.workers.simulated.engine import Engine, Entry, Pause, Sequence
from vllama_pool.workers.simulated.http_server import Exchange

MAX_STEPS = 64
"""Maximum steps per turn of the event loop."""
MAX_LAG = 1.0
"""Seconds of delay that extra steps make up for."""


class EngineLoop:
    def __init__(self, engine: Engine, slow: Callable[[], float]) -> None:
        self.engine = engine
        self.now = 0.0
        """Time of the current step."""
        self._slow = slow
        self._stepped = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._unflushed: list[Exchange] = []
        self._callbacks: list[Callable[[], None]] = []
        self._on_drained: list[Callable[[], None]] = []
        self._frozen = False

    def submit(self, sequence: Sequence) -> Entry:
        entry = self.engine.submit(sequence, asyncio.get_running_loop().time())
        self._start_timer()
        return entry

    def abort(self, entry: Entry) -> bool:
        """Not within a step: use `call_after_flush` there."""
        removed = self.engine.abort(entry, asyncio.get_running_loop().time())
        self._check_drained()
        return removed

    def flush_later(self, exchange: Exchange) -> None:
        self._unflushed.append(exchange)

    def call_after_flush(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def pause(self, pause: Pause) -> None:
        self.engine.suspend(pause)
        if not self.engine.can_step:
            self._cancel()

    def call_when_drained(self, callback: Callable[[], None]) -> None:
        """Call this once no sequence can step, or now."""
        self._on_drained.append(callback)
        self._check_drained()

    def resume(self) -> None:
        self.engine.resume(asyncio.get_running_loop().time())
        self._start_timer()

    def freeze(self) -> None:
        self._frozen = True
        self._cancel()

    def unfreeze(self) -> None:
        """Continue without catching up."""
        self._frozen = False
        self._start_timer()

    def stop(self) -> None:
        self._cancel()
        self._unflushed.clear()
        self._on_drained.clear()
        self._callbacks.clear()

    def _start_timer(self) -> None:
        if self._timer is None and self.engine.can_step and not self._frozen:
            now = asyncio.get_running_loop().time()
            self._schedule(max(now, min(entry.ready for entry in self.engine.running)))

    def _schedule(self, at: float) -> None:
        self._stepped = at - self._interval()
        self._timer = asyncio.get_running_loop().call_at(at, self._tick)

    def _interval(self) -> float:
        return self.engine.pace.interval(len(self.engine.running), self._slow())

    def _tick(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for _ in range(MAX_STEPS):
            due = self._stepped + self._interval()
            if due > now or not self.engine.running:
                break
            self._stepped = self.now = due
            if not self.engine.step(due):
                break
        self.flush()
        self._check_drained()
        if not self.engine.can_step or self._frozen:
            return
        if self._timer is None:
            self._stepped = max(self._stepped, now - MAX_LAG)
            ready = min(entry.ready for entry in self.engine.running)
            due = self._stepped + self._interval()
            if ready > due:
                self._schedule(ready)
            else:
                self._timer = loop.call_at(due, self._tick)

    def flush(self) -> None:
        unflushed, self._unflushed = self._unflushed, []
        for exchange in unflushed:
            exchange.flush()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def _check_drained(self) -> None:
        if self._on_drained and not self.engine.can_step:
            callbacks, self._on_drained = self._on_drained, []
            for callback in callbacks:
                callback()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
