"""Classification of a worker's error responses, and the client's error for each failure."""

from __future__ import annotations

import pytest

from vllama_pool.router.errors import Busy, Lost, Refused, Unavailable
from vllama_pool.router.proxy.worker_errors import classify_response, client_error, transport_failure
from vllama_pool.router.upstream.interface import ConnectFailed, ConnectionLost, ResponseTimeout


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0", 1), ("9" * 400, 600), ("Wed, 21 Oct 2026 07:28:00 GMT", 1), ("-5", 1), ("\u0663", 1), (None, 1)],
)
def test_retry_after_is_passed_on_between_1_and_600_seconds(header: str | None, seconds: int) -> None:
    failure = classify_response(429, {"retry-after": header} if header is not None else {}, b"busy")
    assert isinstance(failure, Busy)
    assert client_error(failure).retry_after == seconds


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_refused_by_the_worker_is_a_502(status: int) -> None:
    failure = classify_response(status, {}, b"")
    assert isinstance(failure, Unavailable)
    assert client_error(failure).status == 502


def test_a_redirect_is_a_502() -> None:
    assert client_error(classify_response(302, {}, b"")).status == 502


def test_a_lost_worker_is_a_503_and_a_late_one_a_504() -> None:
    assert client_error(Lost("gone")).status == 503
    assert client_error(Lost("late", status=504)).status == 504
    assert client_error(Refused("bad", status=400)).retry_after is None


def test_a_transport_error_is_a_lost_attempt_that_says_what_happened() -> None:
    late = transport_failure(ResponseTimeout("the worker stopped responding"))
    assert (late.status, late.text) == (504, "the worker stopped responding")
    unreachable = transport_failure(ConnectFailed("refused"))
    assert (unreachable.status, unreachable.text) == (502, "the worker could not be reached: refused")
    assert transport_failure(ConnectionLost("reset")).text == "the worker was lost: reset"


def test_only_a_request_that_was_in_progress_may_have_crashed_its_engine() -> None:
    assert not transport_failure(ConnectFailed("refused")).in_progress
    assert not transport_failure(ResponseTimeout("the worker stopped responding")).in_progress
    assert transport_failure(ConnectionLost("reset")).in_progress
