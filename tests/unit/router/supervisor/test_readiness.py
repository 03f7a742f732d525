"""The line "ready" waits until every router process routes to the workers."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from vllama_pool.router.supervisor.readiness import Gap, find_gaps, wait_routed
from vllama_pool.router.telemetry.routing_state import RoutedWorker, RoutingState

WORKERS = {"w-0": RoutedWorker(7, ("m", "alias")), "w-1": RoutedWorker(8, ("m",))}
WHOLE = RoutingState(True, {**WORKERS, "other": RoutedWorker(1)})


def test_nothing_is_missing_if_every_process_routes_to_every_worker() -> None:
    assert find_gaps(2, WORKERS, {0: WHOLE, 1: WHOLE}) == []


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (None, "no answer"),
        (RoutingState(False, dict(WORKERS)), "registry not read yet: no answer so far"),
        (RoutingState(False, {}, "it is gone"), "registry not read yet: it is gone"),
        (RoutingState(True, {}), "no requests yet to w-0, w-1; the log says why"),
        (
            RoutingState(True, {**WORKERS, "w-1": RoutedWorker(5, ("m",))}),
            "no requests yet to w-1; the log says why",
        ),
        (
            RoutingState(True, {**WORKERS, "w-0": RoutedWorker(7, ())}),
            "no requests yet to w-0; the log says why",
        ),
    ],
    ids=["silent", "not read", "registry gone", "no worker", "earlier start", "record without models"],
)
def test_what_one_process_lacks_is_named(state: RoutingState | None, problem: str) -> None:
    states = {0: WHOLE} if state is None else {0: WHOLE, 1: state}
    assert find_gaps(2, WORKERS, states) == [Gap("router-1", problem)]


def test_an_agent_that_raised_its_generation_to_take_over_is_routed_to() -> None:
    state = RoutingState(True, {**WORKERS, "w-1": RoutedWorker(9, ("m",))})
    assert find_gaps(1, WORKERS, {0: state}) == []


def test_processes_with_the_same_problem_share_a_line() -> None:
    assert find_gaps(3, WORKERS, {1: WHOLE}) == [Gap("router-0, router-2", "no answer")]


def test_a_worker_that_is_not_ready_any_more_is_missing() -> None:
    (gap,) = find_gaps(1, {**WORKERS, "w-1": RoutedWorker(0)}, {0: WHOLE})
    assert gap.problem.startswith("no requests yet to w-1")


class Routers:
    """One process that catches up with the third question."""

    def __init__(self) -> None:
        self.questions = 0

    async def ask(self) -> Mapping[int, RoutingState]:
        self.questions += 1
        return {0: WHOLE if self.questions > 2 else RoutingState(False, {})}


async def test_routers_are_asked_until_they_have_caught_up() -> None:
    routers = Routers()
    assert await wait_routed(1, routers.ask, lambda: WORKERS, interval=0) == []
    assert routers.questions == 3


async def test_routers_that_never_catch_up_are_given_up_after_a_while() -> None:
    assert await wait_routed(2, Routers().ask, lambda: WORKERS, patience=0) == [
        Gap("router-0", "registry not read yet: no answer so far"),
        Gap("router-1", "no answer"),
    ]
