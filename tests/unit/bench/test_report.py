from __future__ import annotations

from tests.bench.report import Spread, dropped, ratio, short, spread, table
from tests.bench.samples import Sample


def a_sample(contender: str, cpu: float, *, other: float = 0.0, problem: str = "") -> Sample:
    return Sample(contender=contender, scenario="D1", other=other, problem=problem, figures={"cpu_request": cpu})


def test_a_spread_has_median_lowest_and_highest_value() -> None:
    assert spread([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0)
    assert spread([]) is None


def test_numbers_have_three_significant_digits() -> None:
    assert [short(value) for value in (1234.5, 360.4, 43.96, 1.777, 0.02)] == ["1234", "360", "44.0", "1.78", "0.02"]


def test_a_ratio_compares_medians() -> None:
    assert ratio(Spread(90.0, 80.0, 100.0), Spread(60.0, 1.0, 900.0)) == "1.50"
    assert ratio(Spread(90.0, 80.0, 100.0), None) == "–"


def test_the_table_has_a_ratio_for_each_contender_besides_the_reference() -> None:
    samples = [a_sample("vllama", 300.0), a_sample("vllama", 320.0), a_sample("vllm-router", 80.0)]
    head, _, row = table(samples, ["vllama", "vllm-router"], "vllm-router").splitlines()
    assert head == "| figure | vllama | to vllm-router | vllm-router |"
    assert row.endswith("(D1), µs | 310 (300–320) | 3.88 | 80.0 (80.0–80.0) |")


def test_the_table_leaves_out_figures_that_nobody_measured() -> None:
    lines = table([a_sample("vllama", 300.0)], ["vllama"], None).splitlines()
    assert len(lines) == 3
    assert lines[0] == "| figure | vllama |"


def test_dropped_runs_are_listed_with_their_reason() -> None:
    samples = [a_sample("a", 1.0, other=0.31), a_sample("b", 1.0, other=0.29), a_sample("c", 1.0, problem="lost")]
    assert dropped(samples, 0.3) == [
        "1 of 3 runs count; other programs used at most 0.29 cores",
        "dropped: a D1, other programs used 0.31 cores",
        "dropped: c D1, lost",
    ]
