"""The view of workers in /admin/workers."""

from __future__ import annotations

from tests.support.balance import RESTARTING, Clock, found, pool_of, worker_in
from vllama_pool.router.errors import Lost
from vllama_pool.router.telemetry.worker_view import view_workers


def test_workers_are_sorted_by_id_and_have_their_models_and_own_requests() -> None:
    clock = Clock()
    pool = pool_of(clock, found("b", "m", "n", slots=4), found("a"))
    pool.lease(worker_in(pool, "b"))
    first, second = view_workers(pool, clock())
    assert (first.id, first.in_flight, first.models) == ("a", 0, ("m",))
    assert (second.id, second.in_flight, second.models, second.slots) == ("b", 1, ("m", "n"), 4)


def test_the_state_is_the_agents_with_its_note() -> None:
    clock = Clock()
    (view,) = view_workers(pool_of(clock, found("a", load=RESTARTING)), clock())
    assert (view.state, view.note) == ("restarting", "CUDA out of memory")


def test_a_down_worker_is_shown_as_down_whatever_its_agent_last_reported() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"))
    pool.mark_down("a")
    assert [view.state for view in view_workers(pool, clock())] == ["down"]


def test_a_suspect_worker_is_shown_in_the_breaker_column() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"))
    worker_in(pool, "a").mark_suspect(clock())
    assert [(view.state, view.breaker) for view in view_workers(pool, clock())] == [("ready", "suspect")]


def test_the_reason_of_a_lost_connection_is_shown_until_a_success() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"))
    worker = worker_in(pool, "a")
    worker.record_failure(Lost("its certificate has expired"), "m", clock(), clock())
    assert [view.note for view in view_workers(pool, clock())] == ["its certificate has expired"]
    worker.record_success(clock(), clock())
    assert [view.note for view in view_workers(pool, clock())] == [""]
