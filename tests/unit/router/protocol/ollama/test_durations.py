from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.ollama.durations import FOREVER, SECOND, keep_alive, parse_duration

GOOD = {
    None: None,
    0: 0,
    5: 5 * SECOND,
    60.0: 60 * SECOND,
    0.5: SECOND // 2,
    -1: FOREVER,
    -0.1: FOREVER,
    1e300: FOREVER,
    "0": 0,
    "0s": 0,
    "5m": 300 * SECOND,
    "5m0s": 300 * SECOND,
    "1h30m": 5400 * SECOND,
    "500ms": SECOND // 2,
    "1.5h": 5400 * SECOND,
    ".5s": SECOND // 2,
    "1µs": 1000,
    "+2s": 2 * SECOND,
    "-1m": FOREVER,
}


@pytest.mark.rule(92)
@pytest.mark.parametrize(("value", "expected"), GOOD.items())
def test_keep_alive_is_seconds_or_a_go_duration(value: Any, expected: int | None) -> None:
    assert keep_alive(value) == expected


BAD = {
    "5": 'time: missing unit in duration "5"',
    "": 'time: invalid duration ""',
    "-": 'time: invalid duration "-"',
    "abc": 'time: invalid duration "abc"',
    ".s": 'time: invalid duration ".s"',
    "5x": 'time: unknown unit "x" in duration "5x"',
    "1h5": 'time: missing unit in duration "1h5"',
    '5"': 'time: unknown unit "\\"" in duration "5\\""',
    "99999999999h": 'time: invalid duration "99999999999h"',
    " 5m": 'time: invalid duration " 5m"',
}


@pytest.mark.rule(92)
@pytest.mark.parametrize(("value", "text"), BAD.items())
def test_bad_durations_in_gos_words(value: str, text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        keep_alive(value)
    assert (caught.value.status, caught.value.text) == (400, text)


@pytest.mark.rule(92)
@pytest.mark.parametrize(
    ("value", "kind"), [(True, "bool"), (False, "bool"), ([1], "[]interface {}"), ({}, "map[string]interface {}")]
)
def test_other_types_are_named(value: Any, kind: str) -> None:
    with pytest.raises(BadRequest) as caught:
        keep_alive(value)
    assert caught.value.text == f"Unsupported type: '{kind}'"


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_durations_add_up(hours: int, minutes: int, seconds: int, ms: int) -> None:
    total = ((hours * 60 + minutes) * 60 + seconds) * SECOND + ms * 10**6
    assert parse_duration(f"{hours}h{minutes}m{seconds}.{ms:03d}s") == total


def as_go_prints(nanoseconds: int) -> str:
    """Go's Duration.String: the client sends keep_alive like that."""
    for unit, scale in (("ns", 1), ("µs", 10**3), ("ms", 10**6)):
        if nanoseconds < scale * 1000:
            return f"{decimal(nanoseconds, scale)}{unit}" if nanoseconds else "0s"
    minutes, rest = divmod(nanoseconds, 60 * SECOND)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{decimal(rest, SECOND)}s"


def decimal(value: int, scale: int) -> str:
    whole, fraction = divmod(value, scale)
    digits = f"{fraction:0{len(str(scale)) - 1}d}".rstrip("0") if fraction else ""
    return f"{whole}.{digits}" if digits else str(whole)


@pytest.mark.rule(92)
@given(st.integers(0, FOREVER) | st.integers(0, 2000) | st.integers(0, 10**10))
def test_what_go_prints_is_read_back(nanoseconds: int) -> None:
    assert parse_duration(as_go_prints(nanoseconds)) == nanoseconds


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        nanoseconds = parse_duration(text)
    except ValueError as error:
        said = str(error)
    else:
        said = f"time: {nanoseconds:d}"
    assert said.startswith("time: ")
