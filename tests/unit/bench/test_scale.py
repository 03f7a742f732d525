from __future__ import annotations

import pytest

from tests.bench.fleet import model_name, record, worker_url
from tests.bench.scale import RATE, WINDOW, StreamPlan, most_streams


@pytest.mark.parametrize("streams", [1, 100, 10_000])
def test_all_streams_are_open_during_the_window(streams: int) -> None:
    plan = StreamPlan(streams)
    answers = plan.scenario.answers
    first_ends = answers.first / 1e6 + (answers.tokens - 1) * plan.delay / 1e6
    assert first_ends > plan.opening + 2 * plan.delay / 1e6 + WINDOW
    assert streams * 1e6 / plan.delay <= RATE * 1.001


def test_streams_are_limited_by_file_descriptors() -> None:
    assert most_streams(10) == 10
    assert most_streams(10**9) < 10**9


def test_workers_have_addresses_of_their_own() -> None:
    urls = {worker_url(index, 80) for index in range(1001)}
    assert len(urls) == 1001
    assert {"http://127.1.0.1:80", "http://127.1.4.1:80"} <= urls


def test_a_record_serves_the_common_model_and_further_ones() -> None:
    made = record(3, 80, [model_name(0, 7)])
    assert made.id == "bench-3"
    assert [model.name for model in made.models] == ["meta-llama/Llama-3.1-8B-Instruct", "bench/model-0-7"]
