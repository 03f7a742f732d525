"""The failures of one request, and what may still answer it."""

from __future__ import annotations

from tests.support.forwarding import Fleet
from vllama_pool.router.balance.budget import RetryBudget
from vllama_pool.router.balance.retry import GiveUp, Retry
from vllama_pool.router.balance.worker import Replica
from vllama_pool.router.errors import Busy, Faulty, Lost
from vllama_pool.router.poison.apart import trial_workers
from vllama_pool.router.poison.evidence import CrashId
from vllama_pool.router.proxy.recovery import Recovery


def recovery_of(fleet: Fleet) -> Recovery:
    return Recovery(fleet.begin().call, fleet.record)


def replica_of(fleet: Fleet, worker_id: str) -> Replica:
    return next(each for each in fleet.in_flight.call.resolution.replicas if each.worker.id == worker_id)


async def test_a_fallback_is_not_tried_on_workers_that_would_fail_for_it_too() -> None:
    fleet = Fleet(a=[], b=[])
    recovery = recovery_of(fleet)
    recovery.tried += ["a", "b"]
    recovery.note(replica_of(fleet, "a"), Lost("reset"))
    recovery.note(replica_of(fleet, "b"), Faulty("boom"))
    recovery.failures.append(Faulty("boom"))
    recovery.begin_model()
    assert (recovery.tried, recovery.failures) == (["a"], [])
    assert fleet.record.failures == ["Lost", "Faulty"]


async def test_the_streams_of_a_crashed_engine_and_its_unanswered_requests_avoid_each_other() -> None:
    fleet = Fleet(a=[], b=[], c=[], d=[])
    recovery = recovery_of(fleet)
    assert not recovery.avoided()
    apart = trial_workers("a", {"b", "c", "d"})
    recovery.note_crash(CrashId("a", 1, 1))
    assert set(recovery.avoided()) == {"b", "c", "d"} - apart
    recovery.acquit()
    assert not recovery.avoided()


async def test_only_a_second_crash_explains_a_request_that_is_refused_since() -> None:
    recovery = recovery_of(Fleet(a=[]))
    recovery.note_crash(CrashId("a", 1, 1))
    assert (recovery.suspect, recovery.explained) == (True, False)
    recovery.note_crash(CrashId("b", 1, 1))
    assert recovery.explained


async def test_a_retry_that_the_budget_pays_is_spent() -> None:
    fleet = Fleet(a=[], b=[])
    recovery, budget = recovery_of(fleet), RetryBudget()
    recovery.tried.append("a")
    recovery.failures.append(Busy("full"))
    before = budget.available
    assert isinstance(recovery.decide(budget, 1060, fleet.shared.rng), Retry)
    assert budget.available == before - 1


async def test_a_request_returns_to_the_queue_after_a_429_only() -> None:
    fleet = Fleet(a=[])
    for failure, returns in ((Busy("full"), True), (Lost("reset"), False), (Faulty("boom"), False)):
        recovery = recovery_of(fleet)
        recovery.tried.append("a")
        recovery.note(replica_of(fleet, "a"), failure)
        recovery.failures.append(failure)
        budget = RetryBudget()
        assert isinstance(recovery.decide(budget, 1060, fleet.shared.rng), GiveUp)
        assert recovery.try_return(budget, 1060) is returns
        assert recovery.tried == ([] if returns else ["a"])
