"""The limits of a router process, by entry."""

from tests.support.vacancies import Turn, manual_turns
from vllama_pool.router.admission.admission import Admission, RequestLimits
from vllama_pool.router.admission.queue import AdmissionQueue
from vllama_pool.router.admission.tenant import ANYBODY


def queue(admission: Admission, entry: str = "m") -> AdmissionQueue:
    found = admission.queue(entry)
    assert found is not None
    return found


def test_a_model_without_limits_has_a_queue_of_the_default_length_before_its_workers() -> None:
    admission = Admission(3, manual_turns())
    admission.set_limits({"m": RequestLimits(concurrency=1)})
    assert admission.queue("other") is None
    assert admission.worker_queue("other") is admission.worker_queue("other")
    assert admission.worker_queue("other") is not admission.worker_queue("another")
    assert admission.worker_queue("other").bounds.length == 3


def test_limits_are_divided_among_the_processes_and_rounded_up() -> None:
    admission = Admission(512, manual_turns(), processes=4)
    admission.set_limits({"m": RequestLimits(concurrency=10, queue=5, wait=2.0), "q": RequestLimits(queue=9)})
    limits = queue(admission).limits
    assert (limits.places, limits.length, limits.wait) == (3, 2, 2.0)
    assert admission.worker_queue("q").bounds.length == 3


def test_without_a_limit_on_the_queue_the_limit_of_all_models_applies() -> None:
    admission = Admission(7, manual_turns(), processes=4)
    admission.set_limits({"m": RequestLimits(concurrency=10)})
    assert queue(admission).limits.length == 7


def test_a_limit_on_waiting_requests_alone_bounds_those_that_wait_for_the_workers() -> None:
    admission = Admission(512, manual_turns())
    admission.set_limits({"m": RequestLimits(queue=2)})
    assert admission.queue("m") is None
    assert admission.worker_queue("m").bounds.length == 2
    place = admission.worker_queue("m").join(Turn(), ANYBODY, 0)
    assert (admission.waiting, admission.worker_queue("other").waiting) == (1, 0)
    place.end()
    assert admission.waiting == 0


def test_the_wait_limit_holds_without_a_limit_on_requests_in_progress() -> None:
    admission = Admission(512, manual_turns())
    admission.set_limits({"m": RequestLimits(wait=3.0)})
    assert admission.worker_queue("m").bounds.wait == 3.0
    admission.set_limits({})
    assert admission.worker_queue("m").bounds.wait is None


def test_queues_and_bounds_survive_a_change_of_their_limits() -> None:
    admission = Admission(512, manual_turns())
    admission.set_limits({"m": RequestLimits(concurrency=1), "q": RequestLimits(queue=1)})
    before, workers = queue(admission), admission.worker_queue("q")
    _, waiting = before.enter(), before.enter()
    admission.set_limits({"m": RequestLimits(concurrency=2), "q": RequestLimits(queue=8)})
    assert queue(admission) is before
    assert waiting.holds
    assert admission.worker_queue("q") is workers
    assert workers.bounds.length == 8


def test_a_removed_limit_lets_those_that_wait_proceed_and_counts_them_if_it_comes_back() -> None:
    admission = Admission(512, manual_turns())
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
    admission = Admission(512, manual_turns())
    admission.set_limits({"m": RequestLimits(concurrency=1)})
    before = queue(admission)
    before.enter().end()
    admission.set_limits({})
    admission.set_limits({"m": RequestLimits(concurrency=1)})
    assert queue(admission) is not before


def test_queues_are_listed_by_entry() -> None:
    admission = Admission(512, manual_turns())
    admission.set_limits({"m": RequestLimits(concurrency=1), "n": RequestLimits(queue=1)})
    assert [name for name, _ in admission.queues()] == ["m"]
