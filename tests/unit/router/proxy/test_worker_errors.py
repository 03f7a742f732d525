"""What a worker's refusal means, and what the client is told of it."""

from __future__ import annotations

import pytest

from tests.support.upstream import FakeResponse
from vllama_pool.router.errors import Busy, Lost, Refused, Unavailable
from vllama_pool.router.proxy.worker_errors import client_error, worker_refused


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0", 1), ("9" * 400, 600), ("Wed, 21 Oct 2026 07:28:00 GMT", 1), ("-5", 1), ("\u0663", 1), (None, 1)],
)
def test_the_worker_says_when_to_come_back_within_reason(header: str | None, seconds: int) -> None:
    failure = worker_refused(FakeResponse((), 429, {"retry-after": header} if header is not None else {}), b"busy")
    assert isinstance(failure, Busy)
    assert client_error(failure).retry_after == seconds


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_the_worker_refuses_is_not_the_clients(status: int) -> None:
    failure = worker_refused(FakeResponse((), status), b"")
    assert isinstance(failure, Unavailable)
    assert client_error(failure).status == 502


def test_a_redirect_is_no_answer() -> None:
    assert client_error(worker_refused(FakeResponse((), 302), b"")).status == 502


def test_a_lost_worker_is_a_503_and_a_late_one_a_504() -> None:
    assert client_error(Lost("gone")).status == 503
    assert client_error(Lost("late", status=504)).status == 504
    assert client_error(Refused("bad", status=400)).retry_after is None
