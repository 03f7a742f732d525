"""Whether a model that may be without a worker needs one."""

from __future__ import annotations

from tests.support.balance import Clock
from tests.support.vacancies import Turn, manual_turns
from vllama_pool.router.admission.admission import Admission, RequestLimits
from vllama_pool.router.admission.tenant import ANYBODY


def admission_of(clock: Clock, hold: float = 60.0) -> Admission:
    admission = Admission(8, manual_turns(clock=clock), clock=clock)
    admission.set_limits({"m": RequestLimits(start=300.0, hold=hold), "n": RequestLimits(queue=1)})
    return admission


def wanted(admission: Admission) -> dict[str, bool]:
    return dict(admission.wanted())


def test_a_worker_is_wanted_from_the_first_request_that_waits_until_hold_after_the_latest() -> None:
    clock = Clock()
    admission = admission_of(clock)
    assert wanted(admission) == {"m": False}
    place = admission.worker_queue("m").join(Turn(), ANYBODY, None)
    clock.advance(1000)
    assert wanted(admission) == {"m": True}
    place.end()
    clock.advance(59)
    assert wanted(admission) == {"m": True}
    clock.advance(1)
    assert wanted(admission) == {"m": False}


def test_requests_between_two_looks_count() -> None:
    clock = Clock()
    admission = admission_of(clock)
    queue = admission.worker_queue("m")
    queue.join(Turn(), ANYBODY, None).end()
    assert wanted(admission) == {"m": True}
    clock.advance(60)
    assert wanted(admission) == {"m": False}
    queue.ended += 1
    assert wanted(admission) == {"m": True}
    clock.advance(60)
    admission.note_absent("m")
    assert wanted(admission) == {"m": True}


def test_requests_in_progress_keep_a_worker_wanted() -> None:
    clock = Clock()
    admission = admission_of(clock)
    admission.worker_queue("m").in_progress = lambda: 1
    clock.advance(1000)
    assert wanted(admission) == {"m": True}


def test_a_reload_keeps_what_was_seen_and_changes_hold() -> None:
    clock = Clock()
    admission = admission_of(clock)
    admission.note_absent("m")
    assert wanted(admission) == {"m": True}
    admission.set_limits({"m": RequestLimits(start=300.0, hold=5.0)})
    clock.advance(59)
    assert wanted(admission) == {"m": True}
    admission.note_absent("m")
    assert wanted(admission) == {"m": True}
    clock.advance(5)
    assert wanted(admission) == {"m": False}
    admission.set_limits({})
    assert wanted(admission) == {}
