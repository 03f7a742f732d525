"""When waiting for a worker ends, and what the client is told."""

from dataclasses import dataclass, field

import pytest

from vllama_pool.router.proxy.stalls import StallLimits, StallWatch

LIMITS = StallLimits(unresponsive_worker=3, first_content=300, in_answer=120)


@dataclass(eq=False)
class Wait:
    begun: bool = False
    worker_unresponsive: bool = False
    excused: bool = False
    last_progress: float = 1000.0
    told: list[str] = field(default_factory=list)

    def give_up(self, text: str) -> None:
        self.told.append(text)


def told(wait: Wait, *, after: float) -> list[str]:
    """What a look says `after` seconds of silence."""
    watch = StallWatch(LIMITS)
    with watch.watching(wait):
        watch.look(wait.last_progress + after)
    return wait.told


@pytest.mark.parametrize(("begun", "limit"), [(False, 300), (True, 120)])
def test_silence_is_bounded_before_an_answer_and_in_it(begun: bool, limit: float) -> None:
    assert told(Wait(begun), after=limit) == []
    assert len(told(Wait(begun), after=limit + 0.1)) == 1


def test_the_client_is_told_which_bound_it_was() -> None:
    assert told(Wait(), after=301) == ["the worker did not begin to answer within 300 s"]
    assert told(Wait(begun=True), after=121) == ["the worker fell silent for 120 s in the middle of its answer"]


@pytest.mark.parametrize("begun", [False, True])
def test_a_worker_that_is_down_or_sleeps_gets_less_time(begun: bool) -> None:
    assert told(Wait(begun, worker_unresponsive=True), after=3) == []
    assert told(Wait(begun, worker_unresponsive=True), after=3.1) == ["the worker stopped responding"]


def test_what_the_client_holds_up_is_not_the_workers_fault() -> None:
    assert told(Wait(begun=True, worker_unresponsive=True, excused=True), after=1000) == []


def test_what_has_ended_is_not_looked_at() -> None:
    watch, wait = StallWatch(LIMITS), Wait()
    with watch.watching(wait):
        pass
    watch.look(wait.last_progress + 1000)
    assert wait.told == []
