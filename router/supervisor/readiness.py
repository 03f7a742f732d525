"""Waits until every router process routes to the workers that this `vllama serve` runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from vllama_pool.router.telemetry.routing_state import RoutedWorker, RoutingState

PATIENCE = 30.0
"""Seconds."""
INTERVAL = 0.05
"""Seconds between two questions to the routers."""

ReadyWorkers = Callable[[], Mapping[str, RoutedWorker]]
"""Returns the workers that routers should use at this moment, by id."""
AskRouters = Callable[[], Awaitable[Mapping[int, RoutingState]]]
"""Returns the states of the router processes that answer, by index."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A problem of router processes that do not route to all workers yet."""

    routers: str
    problem: str


async def wait_routed(
    routers: int,
    ask: AskRouters,
    workers: ReadyWorkers,
    *,
    patience: float = PATIENCE,
    interval: float = INTERVAL,
) -> list[Gap]:
    """Return once no router process has a gap, or after `patience` seconds the gaps that are left."""
    deadline = time.monotonic() + patience
    while True:
        late = time.monotonic() >= deadline
        gaps = find_gaps(routers, workers(), await ask())
        if late or not gaps:
            return gaps
        await asyncio.sleep(interval)


def find_gaps(routers: int, workers: Mapping[str, RoutedWorker], states: Mapping[int, RoutingState]) -> list[Gap]:
    """Return the problems of `routers` processes, each with all processes that have it."""
    affected: dict[str, list[str]] = {}
    for index in range(routers):
        if problem := _problem(workers, states.get(index)):
            affected.setdefault(problem, []).append(f"router-{index}")
    return [Gap(", ".join(names), problem) for problem, names in affected.items()]


def _problem(workers: Mapping[str, RoutedWorker], state: RoutingState | None) -> str:
    if state is None:
        return "no answer"
    if not state.caught_up:
        return f"registry not read yet: {state.registry_problem or 'no answer so far'}"
    missing = sorted(name for name, worker in workers.items() if not _routes(state, name, worker))
    return f"no requests yet to {', '.join(missing)}; the log says why" if missing else ""


def _routes(state: RoutingState, name: str, worker: RoutedWorker) -> bool:
    routed = state.workers.get(name)
    if routed is None or not 0 < worker.generation <= routed.generation:  # higher: its agent took over from another
        return False
    return set(worker.models) <= set(routed.models)
