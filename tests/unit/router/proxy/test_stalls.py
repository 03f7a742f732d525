"""Time limits on a worker's silence, and the client's error."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from vllama_pool.router.balance.lease import Lease
from vllama_pool.router.proxy.stalls import StallLimits, StallWatch

LIMITS = StallLimits(unresponsive_worker=3, first_content=300, mid_response=120, whole_answer=1800)


@dataclass(eq=False)
class Wait:
    begun: bool = False
    worker_unresponsive: bool = False
    last_heard: float | None = 1000.0
    sent: float = 1000.0
    progress: int = 0
    answers_whole: bool = False
    errors: list[str] = field(default_factory=list)
    limits: StallLimits = LIMITS
    owned: bool = True

    @property
    def lease(self) -> Lease:
        raise NotImplementedError

    def close(self) -> None: ...

    def abort(self, text: str) -> None:
        self.errors.append(text)


def errors(wait: Wait, *, after: float) -> list[str]:
    """Return the errors of a check at 1000 + `after` seconds."""
    watch = StallWatch()
    watch.watch(wait)
    watch.check(1000.0 + after)
    return wait.errors


@pytest.mark.parametrize(("begun", "limit"), [(False, 300), (True, 120)])
def test_silence_is_limited_before_and_after_the_first_content(begun: bool, limit: float) -> None:
    assert errors(Wait(begun), after=limit) == []
    assert len(errors(Wait(begun), after=limit + 0.1)) == 1


def test_the_error_names_the_limit_that_was_exceeded() -> None:
    assert errors(Wait(), after=301) == ["the worker did not begin to answer within 300 s"]
    assert errors(Wait(begun=True), after=121) == ["the worker fell silent for 120 s in the middle of its answer"]


@pytest.mark.parametrize("begun", [False, True])
def test_a_worker_that_answers_whole_may_be_silent_for_long(begun: bool) -> None:
    assert errors(Wait(begun, answers_whole=True), after=1800) == []
    expected = ["the worker did not complete its answer within 1800 s"]
    assert errors(Wait(begun, answers_whole=True), after=1801) == expected


@pytest.mark.parametrize("begun", [False, True])
def test_silence_of_an_unresponsive_worker_is_limited_to_3_s(begun: bool) -> None:
    assert errors(Wait(begun, worker_unresponsive=True), after=3) == []
    assert errors(Wait(begun, worker_unresponsive=True), after=3.1) == ["the worker stopped responding"]


@pytest.mark.parametrize(("whole", "limit"), [(False, 300), (True, 1800)])
def test_bytes_without_content_do_not_prolong_the_wait_for_the_answer(whole: bool, limit: float) -> None:
    """Such as a head that never ends, and the comments of a proxy."""
    wait = Wait(answers_whole=whole, last_heard=1000 + limit)
    assert errors(wait, after=limit) == []
    assert len(errors(wait, after=limit + 0.1)) == 1


def test_bytes_without_content_do_not_prolong_an_answer() -> None:
    """A comment arrives every second; the latest content 50 s after the first."""
    watch, wait = StallWatch(), Wait(begun=True)
    watch.watch(wait)
    for second in range(172):
        wait.last_heard = 1000.0 + second
        wait.progress = min(second, 50)
        assert wait.errors == [], second
        watch.check(1000.0 + second)
    assert wait.errors == ["the worker sent nothing of its answer for 120 s"]


def test_time_for_which_the_client_holds_up_the_answer_does_not_count() -> None:
    watch, wait = StallWatch(), Wait(begun=True)
    watch.watch(wait)
    watch.check(1000.0)
    wait.last_heard = None
    watch.check(1119.0)
    wait.last_heard = 1500.0
    watch.check(1501.0)
    assert wait.errors == []


def test_a_request_that_expects_nothing_of_a_worker_is_not_aborted() -> None:
    assert errors(Wait(begun=True, worker_unresponsive=True, last_heard=None), after=1000) == []


def test_a_request_is_not_checked_after_watching_ends() -> None:
    watch, wait = StallWatch(), Wait()
    watch.watch(wait)
    watch.unwatch(wait)
    watch.unwatch(wait)
    watch.check(2000.0)
    assert wait.errors == []


def test_a_check_covers_the_requests_that_an_abort_ends() -> None:
    watch = StallWatch()

    class Ending(Wait):
        def abort(self, text: str) -> None:
            super().abort(text)
            watch.unwatch(self)

    waits = [Ending() for _ in range(3)]
    for wait in waits:
        watch.watch(wait)
    watch.check(2000.0)
    assert [len(wait.errors) for wait in waits] == [1, 1, 1]
    assert repr(watch) == "<StallWatch 0 watched>"
