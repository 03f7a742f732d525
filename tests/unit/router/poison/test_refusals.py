import pytest

from tests.support.balance import Clock
from vllama_pool.router.errors import Poison
from vllama_pool.router.poison.news import Refused
from vllama_pool.router.poison.refusals import MAX_REFUSED, Refusals


def refused(digest: str, seconds: float = 600) -> Refused:
    return Refused(digest=digest, evidence="two engines crashed", seconds=seconds)


def test_a_refused_request_learns_the_evidence_and_the_minutes_that_are_left() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    refusals.add(refused("a"))
    clock.advance(240)
    with pytest.raises(Poison, match="refused for another 6 min: two engines crashed"):
        refusals.raise_if_refused("a")
    refusals.raise_if_refused("b")
    assert refusals.count == 1


def test_a_refusal_ends_after_its_time_and_a_second_report_does_not_prolong_it() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    refusals.add(refused("a", 10))
    refusals.add(refused("b", 60))
    clock.advance(5)
    refusals.add(refused("a", 10))
    clock.advance(5)
    assert refusals.expire() == ["a"]
    assert [digest for digest, _, _ in refusals.listed()] == ["b"]


def test_no_flood_of_reports_fills_the_memory() -> None:
    refusals = Refusals(Clock())
    for number in range(MAX_REFUSED + 5):
        refusals.add(refused(str(number)))
    assert len(refusals.by_digest) == MAX_REFUSED
