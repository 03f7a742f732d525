"""Sleep mode: /sleep, /wake_up, /is_sleeping."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qs

import msgspec

from vllama_pool.workers.simulated.engine import Pause
from vllama_pool.workers.simulated.engine_loop import EngineLoop
from vllama_pool.workers.simulated.errors import HttpResponse
from vllama_pool.workers.simulated.faults import RequestFault
from vllama_pool.workers.simulated.http_server import Exchange, Request
from vllama_pool.workers.simulated.requests import parse_sleep

MEMORY = frozenset(("weights", "kv_cache"))
GAUGES = ("", "weights_offloaded", "discard_all")
"""vllm:engine_sleep_state by level."""


class SleepState:
    """The released memory. Level 0 releases none."""

    def __init__(self) -> None:
        self.gauge = "awake"
        self._released: frozenset[str] = frozenset()

    @property
    def is_resident(self) -> bool:
        return not self._released

    def sleep(self, level: int) -> None:
        self.gauge = GAUGES[level]
        if level:
            self._released = MEMORY

    def wake_up(self, tags: list[str] | None) -> bool:
        """Restore memory; None for all. Return True if all is resident.

        vLLM ignores all tags if one is not released.
        """
        restored = MEMORY if tags is None else frozenset(tags) - {"scheduling"}
        if tags is None or restored <= self._released:
            self._released -= restored
        if self.is_resident:
            self.gauge = "awake"
        return self.is_resident


class SleepRoutes:
    def __init__(self, engine_loop: EngineLoop, abort_all: Callable[[], None]) -> None:
        self.state = SleepState()
        self._engine_loop = engine_loop
        self._abort_all = abort_all

    def sleep(self, request: Request, exchange: Exchange, fault: RequestFault | None) -> None:
        """Respond once the engine is paused. Raises ApiError."""
        query = parse_sleep(request.query)
        self._engine_loop.pause(Pause.ALL if query.mode == "keep" else Pause.NEW)
        if query.mode == "abort":
            self._abort_all()

        def complete() -> None:
            self.state.sleep(query.level)
            exchange.respond(_json({"status": "sleeping", "level": query.level}))

        self._engine_loop.call_when_drained(complete)

    def wake_up(self, request: Request) -> HttpResponse:
        tags = parse_qs(request.query, keep_blank_values=True).get("tags")
        awake = self.state.wake_up(tags)
        if awake:
            self._engine_loop.resume()
        return _json({"status": "awake" if awake else "sleeping", "tags": tags})

    def is_sleeping(self, request: Request) -> HttpResponse:
        paused = self._engine_loop.engine.pause is not Pause.NONE
        return _json({"is_sleeping": paused or not self.state.is_resident})


def _json(value: dict[str, object]) -> HttpResponse:
    return HttpResponse(200, msgspec.json.encode(value))
