from __future__ import annotations

from tests.bench.check import read_baseline, skipped
from tests.bench.instructions import installed
from tests.bench.regression import Baseline, verdict, without_idle

BASELINE = Baseline("3.11", {"request": 1000, "token": 50}, {"token": 0.11})


def test_a_figure_above_the_tolerance_fails() -> None:
    lines, passed = verdict(BASELINE, {"request": 1051, "token": 50})
    assert not passed
    assert lines[0].endswith("+5.1%  WORSE")
    assert lines[1].endswith("+0.0%  equal")


def test_a_figure_may_have_a_tolerance_of_its_own() -> None:
    assert verdict(BASELINE, {"token": 55})[1]
    assert not verdict(BASELINE, {"token": 56})[1]


def test_a_better_figure_asks_for_a_new_baseline() -> None:
    lines, passed = verdict(BASELINE, {"request": 1049, "token": 40})
    assert passed
    assert lines[0].endswith("equal")
    assert lines[1].endswith("-20.0%  better; update the baseline")


def test_a_figure_without_a_baseline_passes() -> None:
    assert verdict(BASELINE, {"other": 7}) == ([f"{'other':28} {7:>12} instructions    +0.0%  new"], True)


def test_background_work_is_subtracted() -> None:
    assert without_idle(1_000_000, 2.0, 100_000.0) == 800_000
    assert without_idle(10, 2.0, 100.0) == 0


def test_nothing_is_compared_with_the_baseline_of_another_python() -> None:
    reason = skipped(Baseline("2.7", {}, {}))
    assert reason == (
        "valgrind is not installed" if not installed() else f"the baseline is of Python 2.7, and this is {_here()}"
    )


def _here() -> str:
    return read_baseline().python
