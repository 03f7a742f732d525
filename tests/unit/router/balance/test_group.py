"""A group's candidates after each kind of event, asked for before and after it."""

from collections.abc import Callable

import pytest

from tests.support.balance import DRAINING, Clock, found, pool_of, worker_in
from vllama_pool.router.balance.group import Group
from vllama_pool.router.balance.lease import Abandoned, Completed, Errored, Lease
from vllama_pool.router.balance.worker import DENIAL_DURATION
from vllama_pool.router.errors import Faulty, Lost, ModelGone
from vllama_pool.workers.registry.record import LoadReport


class Fleet:
    """Workers a, b and c of "m"; the events happen to a."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.pool = pool_of(self.clock, found("a"), found("b"), found("c"))
        group = self.pool.group_for("m")
        assert group is not None
        self.group: Group = group

    def candidates(self) -> str:
        return "".join(worker.id for worker in self.group.candidates(self.clock()))

    def lease(self) -> Lease:
        return self.pool.lease(worker_in(self.pool, "a"), "m")

    def lose(self) -> None:
        self.lease().release(Errored(Lost("refused")))

    def trip(self) -> None:
        for _ in range(5):
            self.lease().release(Errored(Faulty("boom")))

    def deny(self) -> None:
        self.lease().release(Errored(ModelGone("gone")))

    def restart(self) -> None:
        self.pool.put(found("a", generation=2))


BEGINNINGS: dict[str, Callable[[Fleet], None]] = {
    "lost": Fleet.lose,
    "breaker open": Fleet.trip,
    "404 for the model": Fleet.deny,
    "suspect": lambda fleet: fleet.pool.mark_suspect("a"),
    "down": lambda fleet: fleet.pool.mark_down("a"),
    "draining": lambda fleet: assert_known(fleet.pool.report("a", DRAINING)),
    "removed": lambda fleet: fleet.pool.remove("a"),
    "other models": lambda fleet: fleet.pool.put(found("a", "n")),
}
"""Events that remove worker `a` from the candidates."""

ENDINGS: dict[str, tuple[str, Callable[[Fleet], None]]] = {
    "a beat": ("lost", lambda fleet: assert_known(fleet.pool.report("a", LoadReport()))),
    "a probe": ("suspect", lambda fleet: fleet.pool.mark_up("a")),
    "a probe of a down worker": ("down", lambda fleet: fleet.pool.mark_up("a")),
    "a beat of a down worker": ("down", lambda fleet: assert_known(fleet.pool.report("a", LoadReport()))),
    "a success": ("lost", lambda fleet: fleet.lease().release(Completed(1))),
    "time after a loss": ("lost", lambda fleet: fleet.clock.advance(3)),
    "time after a trip": ("breaker open", lambda fleet: fleet.clock.advance(5)),
    "time after a 404": ("404 for the model", lambda fleet: fleet.clock.advance(DENIAL_DURATION)),
    "readiness": ("draining", lambda fleet: assert_known(fleet.pool.report("a", LoadReport()))),
    "a restart": ("breaker open", Fleet.restart),
    "other models' end": ("other models", lambda fleet: fleet.pool.put(found("a"))),
}
"""Events after which it is one again, by the event before."""


def assert_known(known: bool) -> None:
    assert known


@pytest.mark.parametrize("name", BEGINNINGS)
def test_a_worker_is_no_candidate_after(name: str) -> None:
    fleet = Fleet()
    assert fleet.candidates() == "abc"
    BEGINNINGS[name](fleet)
    assert fleet.candidates() == "bc"


@pytest.mark.parametrize("name", ENDINGS)
def test_a_worker_is_a_candidate_again_after(name: str) -> None:
    before, event = ENDINGS[name]
    fleet = Fleet()
    BEGINNINGS[before](fleet)
    assert fleet.candidates() == "bc"
    event(fleet)
    assert fleet.candidates() == "abc"


@pytest.mark.parametrize(("before", "hold"), [("lost", 3), ("breaker open", 5)])
def test_a_worker_is_no_candidate_while_a_probe_is_in_flight(before: str, hold: float) -> None:
    fleet = Fleet()
    BEGINNINGS[before](fleet)
    fleet.clock.advance(hold)
    assert fleet.candidates() == "abc"
    probe = fleet.lease()
    assert fleet.candidates() == "bc"
    probe.release(Abandoned())
    assert fleet.candidates() == "abc"
    probe = fleet.lease()
    assert fleet.candidates() == "bc"
    probe.record_first_content()
    assert fleet.candidates() == "abc"
    probe.release(Completed(1))


def test_a_worker_that_returns_comes_last_and_one_that_renews_its_record_keeps_its_place() -> None:
    fleet = Fleet()
    fleet.pool.remove("a")
    fleet.pool.put(found("a"), found("b", slots=16))
    assert fleet.candidates() == "bca"
    fleet.pool.put(found("b", "n"))
    fleet.pool.put(found("b", "n", "m"))
    assert fleet.candidates() == "bca"
    assert "".join(replica.worker.id for replica in fleet.group.replicas) == "bca"


def test_many_changes_at_once_are_taken_together() -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(f"w{number:03}") for number in range(100)))
    group = pool.group_for("m")
    assert group is not None
    assert len(group.candidates(clock())) == 100
    for number in range(0, 80, 2):
        pool.mark_suspect(f"w{number:03}")
    assert [worker.id for worker in group.candidates(clock())] == [
        f"w{number:03}" for number in range(100) if number % 2 or number >= 80
    ]
    clock.advance(3)
    assert len(group.candidates(clock())) == 100


def test_a_group_panics_while_less_than_half_of_its_workers_are_healthy() -> None:
    fleet = Fleet()
    now = fleet.clock
    assert not fleet.group.panics(now()), "nobody has asked yet"
    assert fleet.candidates() == "abc"
    assert list(fleet.pool.panics(now())) == [("m", False)]
    for name in "ab":
        worker = worker_in(fleet.pool, name)
        for _ in range(5):
            fleet.pool.lease(worker, "m").release(Errored(Faulty("boom")))
    assert list(fleet.pool.panics(now())) == [("m", True)]
    assert fleet.candidates() == "abc"
    fleet.pool.lease(worker_in(fleet.pool, "a"), "m").release(Completed(1))
    now.advance(6)
    assert list(fleet.pool.panics(now())) == [("m", False)]
