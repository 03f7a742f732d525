"""The choice of a request's worker, and what the log shows of it."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.support.balance import DRAINING, worker_in
from tests.support.forwarding import Fleet, ok, refused, status
from tests.support.lost_answers import Guard
from tests.support.tables import routing_table
from vllama_pool.router.admission.worker_queue import WorkerQueue
from vllama_pool.router.errors import Busy
from vllama_pool.router.poison.apart import trial_workers
from vllama_pool.router.poison.evidence import CrashId
from vllama_pool.router.proxy.recovery import Recovery
from vllama_pool.router.proxy.worker_choice import choose_worker, note_choice, pick_apart


async def test_debug_level_logs_each_choice_with_reasons_and_each_outcome(caplog: pytest.LogCaptureFixture) -> None:
    fleet = Fleet(a=[refused()], b=[ok()], c=[])
    fleet.pool.report("c", DRAINING)
    with caplog.at_level(logging.DEBUG, "vllama_pool.router.proxy"):
        await fleet.answer()
    assert [message.partition("; ")[0] for message in caplog.messages] == [
        "request id: chose a for m",
        "request id: a failed: Lost 502",
        "request id: chose b for m",
        "request id: b answers",
    ]
    assert "c: draining" in caplog.messages[0]
    assert "a: tried already" in caplog.messages[2]


async def test_debug_level_does_not_log_the_text_of_vllms_errors(caplog: pytest.LogCaptureFixture) -> None:
    fleet = Fleet(a=[status(400, "bad input: a secret prompt")])
    with caplog.at_level(logging.DEBUG, "vllama_pool.router.proxy"):
        await fleet.refusal()
    assert "request id: a failed: Refused 400" in caplog.messages
    assert "secret" not in caplog.text


async def test_info_level_logs_no_choices(caplog: pytest.LogCaptureFixture) -> None:
    fleet = Fleet(a=[refused()], b=[ok()])
    with caplog.at_level(logging.INFO, "vllama_pool.router.proxy"):
        await fleet.answer()
    assert caplog.messages == []


def queue_of(fleet: Fleet) -> WorkerQueue:
    return fleet.admission.worker_queue("m")


def fill(fleet: Fleet, *names: str) -> None:
    for name in names:
        for _ in range(9):  # a tenth more than its slots
            fleet.pool.lease(worker_in(fleet.pool, name))
        assert not worker_in(fleet.pool, name).has_room


def least_loaded(count: int) -> Fleet:
    """A fleet whose workers are chosen by load."""
    scripts: dict[str, Any] = {f"w{number}": [] for number in range(count)}
    fleet = Fleet(table=routing_table(models={"m": {}}), **scripts)
    fleet.begin()
    return fleet


async def test_a_request_takes_no_worker_while_others_wait_for_one_unless_it_was_sent_before() -> None:
    fleet = Fleet(a=[], b=[])
    call, queue = fleet.begin().call, queue_of(fleet)
    queue.waiting = 1
    assert choose_worker(fleet.shared, call, queue, None) is None
    assert call.decision.choices == ()
    recovery = Recovery(call, fleet.record)
    recovery.failures.append(Busy("full"))
    assert choose_worker(fleet.shared, call, queue, recovery) is not None


async def test_a_request_that_returned_to_the_queue_takes_no_worker_at_once() -> None:
    fleet = Fleet(a=[])
    call = fleet.begin().call
    recovery = Recovery(call, fleet.record)
    recovery.failures.append(Busy("full"))
    recovery.returned = True
    assert choose_worker(fleet.shared, call, queue_of(fleet), recovery) is None


async def test_the_one_worker_with_room_is_found_among_many_that_are_full() -> None:
    fleet = least_loaded(40)
    fill(fleet, *(f"w{number}" for number in range(40) if number != 17))
    for _ in range(9):
        replica = choose_worker(fleet.shared, fleet.in_flight.call, queue_of(fleet), None)
        assert replica is not None
        assert replica.worker.id == "w17"
        fleet.pool.lease(replica.worker)
    assert choose_worker(fleet.shared, fleet.in_flight.call, queue_of(fleet), None) is None


async def test_a_policy_may_prefer_a_full_worker_while_another_has_room() -> None:
    fleet = Fleet(a=[], b=[])
    fill(fleet, "a")
    replica = choose_worker(fleet.shared, fleet.begin().call, queue_of(fleet), None)
    assert replica is not None
    assert replica.worker.id == "a"
    fill(fleet, "b")
    assert choose_worker(fleet.shared, fleet.begin().call, queue_of(fleet), None) is None


async def test_a_request_that_may_have_crashed_an_engine_gets_a_worker_apart_while_that_has_room() -> None:
    fleet = Fleet(poison=Guard(), a=[], c=[], d=[])
    assert trial_workers("a", {"c", "d"}) == {"d"}, "the other way round, the policy would choose the same"
    call = fleet.begin().call
    recovery = Recovery(call, fleet.record)
    recovery.tried.append("a")
    recovery.note_crash(CrashId("a", 1, 1))
    replica = pick_apart(fleet.shared, call, recovery)
    assert replica is not None
    assert replica.worker.id == "d"
    fill(fleet, "d")
    replica = pick_apart(fleet.shared, call, recovery)
    assert replica is not None
    assert replica.worker.id == "c"


async def test_a_choice_is_noted_for_explanations_and_as_tried() -> None:
    fleet = Fleet(a=[], b=[])
    call = fleet.begin().call
    recovery = Recovery(call, fleet.record)
    note_choice(fleet.shared, call, recovery, worker_in(fleet.pool, "b"))
    (choice,) = call.decision.choices
    assert (choice.worker, choice.candidates, recovery.tried) == ("b", 2, ["b"])
