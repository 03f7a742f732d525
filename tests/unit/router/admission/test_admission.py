"""The limits of a router process, by entry."""

from vllama_pool.router.admission.admission import Admission, RequestLimits
from vllama_pool.router.admission.queue import AdmissionQueue


def queue(admission: Admission, entry: str = "m") -> AdmissionQueue:
    found = admission.queue(entry)
    assert found is not None
    return found


def test_an_entry_without_limits_is_bound_with_all_others() -> None:
    admission = Admission(3)
    admission.set_limits({"m": RequestLimits(concurrency=1)})
    assert admission.queue("other") is None
    assert admission.bound("other") is admission.bound("another")
    assert admission.bound("other").max_waiting == 3


def test_limits_are_divided_among_the_processes_and_rounded_up() -> None:
    admission = Admission(512, processes=4)
    admission.set_limits({"m": RequestLimits(concurrency=10, queue=5, wait=2.0), "q": RequestLimits(queue=9)})
    limits = queue(admission).limits
    assert (limits.places, limits.length, limits.wait) == (3, 2, 2.0)
    assert admission.bound("q").max_waiting == 3


def test_without_a_limit_on_the_queue_the_limit_of_all_models_applies() -> None:
    admission = Admission(7, processes=4)
    admission.set_limits({"m": RequestLimits(concurrency=10)})
    assert queue(admission).limits.length == 7


def test_a_limit_on_waiting_requests_alone_bounds_those_that_wait_for_the_workers() -> None:
    admission = Admission(512)
    admission.set_limits({"m": RequestLimits(queue=2)})
    assert admission.queue("m") is None
    assert admission.bound("m").max_waiting == 2
    admission.bound("m").waiting += 1
    assert (admission.waiting, admission.bound("other").waiting) == (1, 0)


def test_queues_and_bounds_survive_a_change_of_their_limits() -> None:
    admission = Admission(512)
    admission.set_limits({"m": RequestLimits(concurrency=1), "q": RequestLimits(queue=1)})
    before, bound = queue(admission), admission.bound("q")
    _, waiting = before.enter(), before.enter()
    admission.set_limits({"m": RequestLimits(concurrency=2), "q": RequestLimits(queue=8)})
    assert queue(admission) is before
    assert waiting.holds
    assert admission.bound("q") is bound
    assert bound.max_waiting == 8


def test_a_removed_limit_lets_those_that_wait_proceed_and_counts_them_if_it_comes_back() -> None:
    admission = Admission(512)
    admission.set_limits({"m": RequestLimits(concurrency=1)})
    before = queue(admission)
    _, waiting = before.enter(), before.enter()
    admission.set_limits({})
    assert waiting.holds
    assert admission.queue("m") is None
    admission.set_limits({"m": RequestLimits(concurrency=1)})
    assert queue(admission) is before
    assert before.in_progress == 2


def test_the_queue_of_a_removed_limit_is_forgotten_once_it_is_idle() -> None:
    admission = Admission(512)
    admission.set_limits({"m": RequestLimits(concurrency=1)})
    before = queue(admission)
    before.enter().end()
    admission.set_limits({})
    admission.set_limits({"m": RequestLimits(concurrency=1)})
    assert queue(admission) is not before


def test_queues_are_listed_by_entry() -> None:
    admission = Admission(512)
    admission.set_limits({"m": RequestLimits(concurrency=1), "n": RequestLimits(queue=1)})
    assert [name for name, _ in admission.queues()] == ["m"]
