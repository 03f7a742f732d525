"""When a static worker is asked for its abilities."""

from __future__ import annotations

from vllama_pool.workers.vllm.abilities import ABILITIES, Detection
from vllama_pool.workers.vllm.ability_schedule import (
    MAX_LEARN_TRIES,
    MAX_RENEWALS,
    RENEWAL_WINDOW,
    AbilitySchedule,
)

TOOLS = Detection(("tools",))
BUSY = Detection((), ABILITIES)


def test_abilities_are_asked_for_once() -> None:
    schedule = AbilitySchedule()
    assert schedule.is_due(0)
    assert schedule.answered(TOOLS, schedule.version, 0)
    assert not schedule.is_due(1e9)


def test_known_abilities_stay_until_the_answer_after_a_restart() -> None:
    schedule = AbilitySchedule()
    schedule.answered(TOOLS, schedule.version, 0)
    schedule.renew(5)
    assert schedule.is_due(5)
    assert schedule.abilities == ("tools",)
    assert not schedule.answered(BUSY, schedule.version, 5)
    assert schedule.abilities == ("tools",)
    assert schedule.answered(Detection(()), schedule.version, 20)
    assert schedule.abilities == ()


def test_another_model_has_no_abilities_until_it_answers() -> None:
    schedule = AbilitySchedule()
    schedule.answered(TOOLS, schedule.version, 0)
    schedule.renew(5, forget=True)
    assert schedule.abilities == ()


def test_an_answer_from_before_a_restart_is_void() -> None:
    schedule = AbilitySchedule()
    version = schedule.version
    schedule.renew(5)
    assert not schedule.answered(TOOLS, version, 6)
    assert schedule.is_due(6)


def test_a_worker_that_restarts_again_and_again_is_asked_a_few_times_per_window() -> None:
    schedule, asked = AbilitySchedule(), 0
    for second in range(int(RENEWAL_WINDOW)):
        if second % 2:
            schedule.renew(second)
        if schedule.is_due(second):
            asked += 1
            schedule.answered(TOOLS, schedule.version, second)
    assert asked == MAX_RENEWALS + 1


def test_abilities_are_undetected_until_the_answer_is_complete() -> None:
    schedule = AbilitySchedule()
    assert schedule.undetected == ABILITIES
    assert schedule.answered(Detection(("tools",), ("vision",)), schedule.version, 0)
    assert (schedule.abilities, schedule.undetected) == (("tools",), ("vision",)), "it does not think"
    assert schedule.answered(Detection((), ("thinking", "vision")), schedule.version, 10)
    assert (schedule.abilities, schedule.undetected) == ((), ("vision",)), "it has no tools after all"
    assert schedule.answered(Detection(), schedule.version, 20)
    assert schedule.undetected == ()


def test_abilities_that_no_try_has_shown_stay_undetected() -> None:
    schedule = AbilitySchedule()
    for now in range(MAX_LEARN_TRIES):
        assert not schedule.answered(BUSY, schedule.version, now)
    assert schedule.due is None
    assert schedule.undetected == ABILITIES


def test_missing_abilities_are_undetected_after_a_restart() -> None:
    schedule = AbilitySchedule()
    schedule.answered(TOOLS, schedule.version, 0)
    schedule.doubt()
    assert (schedule.abilities, schedule.undetected) == (("tools",), ("thinking", "vision"))
    schedule.renew(5, forget=True)
    assert schedule.undetected == ABILITIES
