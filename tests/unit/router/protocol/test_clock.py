from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.protocol import use_once
from vllama_pool.config.durations import FOREVER, SECOND
from vllama_pool.router.protocol.clock import SystemClock, TimestampFormatter, rfc3339
from vllama_pool.router.protocol.ollama.expiry import ExpiryTracker


@pytest.mark.rule(41)
@pytest.mark.parametrize(
    ("unix_ns", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (5, "1970-01-01T00:00:00.000000005Z"),
        (1_795_375_700_250_000_000, "2026-11-22T19:28:20.25Z"),
        (1_795_375_700_000_000_000, "2026-11-22T19:28:20Z"),
        (1_795_375_700_123_456_789, "2026-11-22T19:28:20.123456789Z"),
    ],
)
def test_timestamps_are_rfc_3339_in_utc_without_trailing_zeros(unix_ns: int, text: str) -> None:
    assert rfc3339(unix_ns) == TimestampFormatter().format(unix_ns) == text


@given(st.lists(st.integers(0, 10**19), min_size=1, max_size=5))
def test_cached_timestamps_are_the_same_and_can_be_parsed(moments: list[int]) -> None:
    stamps = TimestampFormatter()
    for moment in moments:
        text = stamps.format(moment)
        assert text == rfc3339(moment)
        parsed = datetime.fromisoformat(text)
        assert abs(parsed - datetime.fromtimestamp(moment // 10**9, UTC)) <= timedelta(seconds=1)


def test_the_system_clock_advances() -> None:
    clock = SystemClock()
    assert clock.monotonic_ns() <= clock.monotonic_ns()
    assert clock.time_ns() > 1_700_000_000 * SECOND


@pytest.mark.rule(93)
def test_expires_is_the_last_requests_end_plus_keep_alive() -> None:
    expiry = ExpiryTracker(default=300 * SECOND)
    assert expiry.expires("x", 1000, 0) == 1000 + 300 * SECOND
    use_once(expiry, "x", 3600 * SECOND, 1000)
    assert expiry.expires("x", 2000, 0) == 1000 + 3600 * SECOND
    use_once(expiry, "x", None, 3000)
    assert expiry.expires("x", 4000, 0) == 3000 + 3600 * SECOND
    use_once(expiry, "x", FOREVER, 5000)
    assert rfc3339(expiry.expires("x", 1_795_375_700 * SECOND, 0)) > "2262"


@pytest.mark.rule(187)
def test_a_zero_default_does_not_expire_in_the_past() -> None:
    expiry = ExpiryTracker(default=0)
    assert expiry.expires("x", 1000, 0) == 1000 + 300 * SECOND
    use_once(expiry, "x", None, 1000)
    assert expiry.expires("x", 2000, 0) > 2000


@pytest.mark.rule(41, 22)
@given(st.integers(0, 253402300799 * SECOND))
def test_every_timestamp_is_parsed_by_python_as_in_open_webui(unix_ns: int) -> None:
    moment = datetime.fromisoformat(rfc3339(unix_ns))
    assert moment.utcoffset() == timedelta(0)
    assert (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) == unix_ns // 1000


def test_an_expired_model_counts_as_just_loaded() -> None:
    expiry = ExpiryTracker(default=-1)
    use_once(expiry, "x", 0, 1000)
    assert expiry.expires("x", 2000, 0) == 2000 + FOREVER
