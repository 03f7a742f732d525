"""The workers that a lost answer is continued on."""

from __future__ import annotations

from tests.support.forwarding import Fleet
from tests.support.lost_answers import (
    CUT,
    LOST,
    Guard,
    errors_of,
    fleet_of,
    rest,
    text_of,
)
from vllama_pool.router.balance.budget import RetryBudget
from vllama_pool.router.balance.retry import MAX_ATTEMPTS
from vllama_pool.router.balance.worker import Replica
from vllama_pool.router.proxy.attempt import Attempt
from vllama_pool.router.proxy.recovery import Recovery
from vllama_pool.router.proxy.resumption import Resumption
from vllama_pool.router.upstream.interface import ConnectFailed


async def test_a_second_worker_that_sends_nothing_is_replaced_by_a_third() -> None:
    fleet = fleet_of(Guard("a"), a=[CUT], b=rest(LOST), c=rest())
    assert text_of(await fleet.answer()) == "one two three four"


async def test_a_second_worker_that_cannot_be_reached_is_replaced_by_a_third() -> None:
    fleet = fleet_of(Guard("a"), a=[CUT], b=[ConnectFailed("refused")], c=rest())
    assert text_of(await fleet.answer()) == "one two three four"


async def test_an_answer_whose_second_engine_crashes_too_never_reaches_a_third() -> None:
    fleet = fleet_of(Guard("a", "b"), a=[CUT], b=rest(LOST), c=rest())
    body = await fleet.answer()
    assert text_of(body) == "one two"
    assert len(errors_of(body)) == 1
    assert "c" not in fleet.upstream.workers
    assert fleet.record.outcome == "lost"


async def test_no_more_than_three_workers_are_asked() -> None:
    fleet = fleet_of(a=[CUT], b=rest(LOST), c=rest(LOST), d=rest())
    body = await fleet.answer()
    assert len(errors_of(body)) == 1
    assert "d" not in fleet.upstream.workers


def never(replica: Replica) -> Attempt:
    raise AssertionError


async def test_another_worker_is_asked_if_the_budget_pays_for_it_and_an_attempt_is_left() -> None:
    fleet = Fleet(a=[])
    call = fleet.begin().call
    recovery, budget = Recovery(call, fleet.record), RetryBudget()
    resumption = Resumption(fleet.shared, call, recovery, budget, never)
    assert [resumption.may_retry() for _ in range(4)] == [True, True, True, False]
    fleet.record.attempts = MAX_ATTEMPTS
    assert not Resumption(fleet.shared, call, recovery, RetryBudget(), never).may_retry()


async def test_a_worker_that_is_excluded_or_was_tried_does_not_continue() -> None:
    fleet = Fleet(a=[], b=[], c=[])
    call = fleet.begin().call
    recovery = Recovery(call, fleet.record)
    recovery.tried.append("a")
    resumption = Resumption(fleet.shared, call, recovery, RetryBudget(), never)
    replica = resumption.choose_again(frozenset({"b"}))
    assert replica is not None
    assert replica.worker.id == "c"
    assert resumption.choose_again(frozenset({"b"})) is None
