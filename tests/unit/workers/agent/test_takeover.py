"""The place of a start with a higher generation."""

from __future__ import annotations

from vllama_pool.workers.agent.takeover import MAX_GAP, SILENT, Rival, Verdict, judge


def looks(*seen: tuple[float, int]) -> Verdict:
    """Look at generation 9 at these times and beats, and return the last verdict."""
    rival: Rival | None = None
    verdict = Verdict.WAIT
    for now, beat in seen:
        assert verdict is Verdict.WAIT
        verdict, rival = judge(rival, 9, beat, now)
    return verdict


def test_the_first_look_decides_nothing() -> None:
    assert looks((0, 5)) is Verdict.WAIT


def test_a_start_that_beats_is_alive() -> None:
    assert looks((0, 5), (1, 6)) is Verdict.REFUSED
    assert looks((0, 5), (1, 5), (2, 5), (3, 6)) is Verdict.REFUSED


def test_a_start_is_replaced_when_it_has_been_silent_for_long_enough() -> None:
    steps = [(float(second), 5) for second in range(round(SILENT))]
    assert looks(*steps) is Verdict.WAIT
    assert looks(*steps, (SILENT, 5)) is Verdict.TAKE_OVER


def test_an_outage_of_the_registry_begins_the_time_anew() -> None:
    assert looks((0, 5), (2, 5), (2 + MAX_GAP + 0.1, 5), (2 + MAX_GAP + 1, 5)) is Verdict.WAIT


def test_a_third_start_that_takes_over_meanwhile_is_alive() -> None:
    _, rival = judge(None, 9, 5, 0)
    assert judge(rival, 10, 5, 1)[0] is Verdict.REFUSED
