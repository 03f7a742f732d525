"""The bounded store of decisions."""

from vllama_pool.router.telemetry.decisions import Decisions
from vllama_pool.router.telemetry.request_record import RequestRecord


def decide(decisions: Decisions, *ids: str) -> None:
    for position, request_id in enumerate(ids):
        decisions.begin(RequestRecord(id=request_id), position, 10)


def test_the_oldest_decisions_are_forgotten() -> None:
    decisions = Decisions(2)
    decide(decisions, "a", "b", "c")
    assert [decision.record.id for decision in decisions] == ["b", "c"]
    assert decisions.find("a") is None
    assert (len(decisions), decisions.limit) == (2, 2)


def test_a_repeated_request_id_means_its_latest_request() -> None:
    decisions = Decisions(5)
    decide(decisions, "same", "other", "same")
    found = decisions.find("same")
    assert found is not None
    assert found.arrived == 2


def test_a_limit_of_zero_keeps_nothing_but_still_hands_out_a_decision() -> None:
    decisions = Decisions(0)
    assert decisions.begin(RequestRecord(id="a"), 1, 10).size == 10
    assert len(decisions) == 0
