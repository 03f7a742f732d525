"""The memory that a sleeping engine releases and restores."""

from __future__ import annotations

import pytest

from vllama_pool.workers.simulated.errors import ApiError
from vllama_pool.workers.simulated.requests import parse_sleep
from vllama_pool.workers.simulated.sleep import SleepState


@pytest.mark.parametrize(("level", "gauge"), [(0, ""), (1, "weights_offloaded"), (2, "discard_all")])
def test_every_level_has_its_gauge_until_the_engine_is_awake(level: int, gauge: str) -> None:
    state = SleepState()
    state.sleep(level)
    assert (state.gauge, state.is_resident) == (gauge, level == 0)
    assert state.wake_up(None)
    assert (state.gauge, state.is_resident) == ("awake", True)


@pytest.mark.parametrize("tags", [None, ["scheduling"], ["weights"], ["nonsense"]])
def test_any_tags_wake_an_engine_at_level_0(tags: list[str] | None) -> None:
    state = SleepState()
    state.sleep(0)
    assert state.wake_up(tags)


def test_an_engine_is_awake_once_all_memory_is_restored() -> None:
    state = SleepState()
    state.sleep(1)
    assert not state.wake_up(["weights"])
    assert state.gauge == "weights_offloaded"
    assert not state.wake_up(["weights", "kv_cache"]), "weights are resident: vLLM ignores the rest"
    assert state.wake_up(["kv_cache", "scheduling"])


@pytest.mark.parametrize("tags", [["scheduling"], ["nonsense"], ["weights", "nonsense"]])
def test_a_wake_up_with_other_tags_leaves_the_engine_asleep(tags: list[str]) -> None:
    state = SleepState()
    state.sleep(2)
    assert not state.wake_up(tags)
    assert not state.wake_up(["weights"])
    assert state.wake_up(["kv_cache"])


def test_the_query_has_a_level_and_a_mode() -> None:
    assert (parse_sleep("").level, parse_sleep("").mode) == (1, "abort")
    parsed = parse_sleep("level=1&mode=wait&level=2&other=3")
    assert (parsed.level, parsed.mode) == (2, "wait")


@pytest.mark.parametrize(
    ("query", "param", "text"),
    [
        ("level=3", "query.level", "'type': 'less_than_equal', 'loc': 'query.level'"),
        ("level=-1", "query.level", "'type': 'greater_than_equal', 'loc': 'query.level'"),
        ("level=deep", "query.level", "'type': 'int_parsing', 'loc': 'query.level'"),
        ("level=", "query.level", "'type': 'int_parsing', 'loc': 'query.level'"),
        ("mode=nap", "query.mode", "'msg': \"Input should be 'abort', 'wait' or 'keep'\", 'input': 'nap'"),
        ("level=3&mode=nap", "query.level", "2 validation errors:"),
    ],
)
def test_an_invalid_query_is_a_validation_error(query: str, param: str, text: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_sleep(query)
    assert (caught.value.status, caught.value.kind, caught.value.param) == (400, "Bad Request", param)
    assert text in caught.value.message
