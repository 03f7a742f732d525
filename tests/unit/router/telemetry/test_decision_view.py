"""Decisions as operators see them, from one process and from several."""

import msgspec

from tests.support.balance import Clock, found, pool_of
from vllama_pool.router.telemetry.decision_view import (
    ComparedView,
    DecisionView,
    FoundDecision,
    ProcessDecisions,
    Reach,
    find_decision,
    json_lines,
    merge_found,
    view_decision,
    view_decisions,
)
from vllama_pool.router.telemetry.decisions import Choice, Decision, Decisions
from vllama_pool.router.telemetry.request_record import Fallback, RequestRecord

OFFSET = 1_700_000_000 * 10**9


def view(request_id: str, time: float) -> DecisionView:
    return DecisionView(id=request_id, time=time, operation="chat", requested="m")


def test_a_view_has_the_attempts_with_their_failures_and_the_scores_and_loads_of_the_choice() -> None:
    workers = tuple(pool_of(Clock(), found("a"), found("b")))
    decision = Decision(RequestRecord(id="x", operation="chat", failures=["Lost"]), 2 * 10**9, 10)
    decision.choices = (Choice("a", 2, workers, (-0.5, 3.0), (1, 2)), Choice("b"))
    decision.record.fallbacks = (Fallback("overloaded", "other", 1),)
    seen = view_decision(decision, OFFSET)
    assert seen.time == 1_700_000_002
    assert [(attempt.worker, attempt.failure) for attempt in seen.attempts] == [("a", "Lost"), ("b", "")]
    assert [attempt.candidates for attempt in seen.attempts] == [2, 1]
    assert seen.attempts[0].compared == (ComparedView("a", 2.0, load=1), ComparedView("b", 3.0, True, 2))
    assert [(move.reason, move.target, move.attempts) for move in seen.fallbacks] == [("overloaded", "other", 1)]


def test_an_identity_is_shown_as_a_hash_only_if_there_is_one() -> None:
    decision = Decision(RequestRecord(id="x"), 0, 0)
    assert view_decision(decision, 0).identity == ""
    decision.identity = 0xAB
    assert view_decision(decision, 0).identity == "00000000000000ab"


def test_a_process_answers_with_the_extent_of_its_store() -> None:
    decisions = Decisions(3)
    assert find_decision(decisions, "a", OFFSET) == FoundDecision(Reach(0, 3))
    decisions.add(Decision(RequestRecord(id="a"), 10**9, 5))
    answer = find_decision(decisions, "a", OFFSET)
    assert answer.reach == Reach(1, 3, 1_700_000_001)
    assert answer.decision is not None
    assert answer.decision.bytes == 5


def test_the_answers_of_all_processes_are_the_latest_decision_and_the_oldest_beginning() -> None:
    answers = {
        0: FoundDecision(Reach(2, 5, 100.0), view("x", 110)),
        1: FoundDecision(Reach(1, 5, 90.0), view("x", 120)),
        2: FoundDecision(Reach(0, 5)),
    }
    assert merge_found(answers) == FoundDecision(Reach(3, 15, 90.0), view("x", 120))


def test_the_decisions_of_all_processes_are_lines_in_the_order_of_time() -> None:
    reports = [ProcessDecisions((view("a", 1), view("c", 3))), ProcessDecisions((view("b", 2),))]
    lines = json_lines(reports).splitlines()
    assert [msgspec.json.decode(line)["id"] for line in lines] == ["a", "b", "c"]
    assert json_lines([view_decisions(Decisions(1), 0)]) == b""
