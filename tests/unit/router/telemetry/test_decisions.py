"""The bounded store of decisions."""

from tests.support.balance import Clock, found, group, pool_of, worker_in
from vllama_pool.router.telemetry.decisions import Choice, Decision, Decisions, choice_of
from vllama_pool.router.telemetry.request_record import RequestRecord


def decide(decisions: Decisions, *ids: str) -> None:
    for position, request_id in enumerate(ids):
        decisions.add(Decision(RequestRecord(id=request_id), position, 10))


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


def test_a_limit_of_zero_keeps_nothing() -> None:
    decisions = Decisions(0)
    decide(decisions, "a")
    assert len(decisions) == 0


def test_a_choice_among_few_has_the_ranks_and_loads_of_all_candidates() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"), found("b", slots=1))
    pool.lease(worker_in(pool, "b"))
    choice = choice_of(worker_in(pool, "a"), group(pool), clock())
    assert (choice.worker, choice.candidates) == ("a", 2)
    assert [worker.id for worker in choice.compared] == ["a", "b"]
    assert list(choice.ranks) == [-1.0, 2.0]
    assert list(choice.loads) == [0, 1]


def test_a_choice_among_many_has_the_rank_of_the_chosen_one() -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(f"w{number}") for number in range(9)))
    choice = choice_of(worker_in(pool, "w3"), group(pool), clock())
    assert (choice.candidates, [worker.id for worker in choice.compared]) == (9, ["w3"])


def test_a_choice_of_the_only_candidate_compares_none() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"))
    assert choice_of(worker_in(pool, "a"), group(pool), clock()) == Choice("a")


def test_the_candidates_of_a_choice_are_those_of_its_workers_target() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a", "x"), found("b", "y"), found("c", "y"))
    groups = (*group(pool, "x"), *group(pool, "y"))
    assert [worker.id for worker in choice_of(worker_in(pool, "c"), groups, clock()).compared] == ["b", "c"]
