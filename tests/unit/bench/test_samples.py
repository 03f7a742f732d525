from __future__ import annotations

from dataclasses import replace

import pytest

from tests.bench.rig import Load
from tests.bench.samples import problem, sample
from tests.bench.scenarios import SCENARIOS

LOAD = Load(
    seconds=2.0,
    done=256,
    errors=0,
    refused=0,
    tokens=256 * 128,
    chunks=0,
    first_p50=5100,
    first_p99=9000,
    token_p50=90,
    token_p99=900,
    gap_p50=40_000,
    gap_p99=43_000,
    request_p50=1,
    request_p99=2,
)


def test_cpu_time_is_divided_by_requests_and_by_tokens() -> None:
    made = sample("vllama", SCENARIOS["B"], LOAD, cpu=1.024, memory=256 * 8192, other=0.25)
    assert made.figures["cpu_request"] == pytest.approx(4000)
    assert made.figures["cpu_token"] == pytest.approx(31.25)
    assert made.figures["memory"] == pytest.approx(8)
    assert made.other == pytest.approx(0.25)
    assert made.counts(0.3)
    assert not made.counts(0.2)


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (replace(LOAD, errors=1), "1 lost connections, 0 refusals"),
        (replace(LOAD, refused=2), "0 lost connections, 2 refusals"),
        (replace(LOAD, done=255), "255 of 256 requests within 60 s"),
        (replace(LOAD, tokens=10), "10 of 32768 tokens arrived"),
        (LOAD, ""),
    ],
)
def test_a_run_that_lost_something_does_not_count(load: Load, words: str) -> None:
    assert problem(SCENARIOS["B"], load) == words
