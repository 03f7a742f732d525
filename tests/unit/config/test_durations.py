import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.config.durations import SECOND, nanoseconds, seconds


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0.0),
        ("90", 90.0),
        ("1.5", 1.5),
        ("-1", -1.0),
        ("5m", 300.0),
        ("5m0s", 300.0),
        ("1h30m", 5400.0),
        ("500ms", 0.5),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("-2m30s", -150.0),
        ("+3s", 3.0),
        ("250us", 0.00025),
    ],
)
def test_seconds_reads_numbers_and_go_durations(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "m", "5 m", "5x", "1h30", "5m-1s", "inf", "nan", "1e3", "٣s", ".", "--1"])
def test_an_invalid_duration_is_refused_with_advice(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write"):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("0s", 0),
        ("5m0s", 300 * SECOND),
        ("1h30m", 5400 * SECOND),
        ("500ms", SECOND // 2),
        ("1.5h", 5400 * SECOND),
        (".5s", SECOND // 2),
        ("1.s", SECOND),
        ("1µs", 1000),
        ("+2s", 2 * SECOND),
        ("-1m", -60 * SECOND),
    ],
)
def test_go_durations_are_converted_to_nanoseconds(text: str, value: int) -> None:
    assert nanoseconds(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    {
        "5": 'time: missing unit in duration "5"',
        "": 'time: invalid duration ""',
        "-": 'time: invalid duration "-"',
        "abc": 'time: invalid duration "abc"',
        ".s": 'time: invalid duration ".s"',
        "5x": 'time: unknown unit "x" in duration "5x"',
        "1h5": 'time: missing unit in duration "1h5"',
        '5"': 'time: unknown unit "\\"" in duration "5\\""',
        "99999999999h": 'time: invalid duration "99999999999h"',
        "9" * 5000 + "s": f'time: invalid duration "{"9" * 5000}s"',
        " 5m": 'time: invalid duration " 5m"',
        "\u0663s": 'time: invalid duration "\u0663s"',
    }.items(),
)
def test_invalid_durations_are_refused_with_gos_error_text(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        nanoseconds(text)


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_the_units_of_a_duration_are_added(hours: int, minutes: int, seconds: int, ms: int) -> None:
    total = ((hours * 60 + minutes) * 60 + seconds) * SECOND + ms * 10**6
    assert nanoseconds(f"{hours}h{minutes}m{seconds}.{ms:03d}s") == total


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_refused_with_gos_error_text(text: str) -> None:
    try:
        message = f"time: {nanoseconds(text)}"
    except ValueError as error:
        message = str(error)
    assert message.startswith("time: ")
