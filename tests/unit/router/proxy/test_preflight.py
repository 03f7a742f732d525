"""Preflight requests: their order, limits and failures, and the release of each response."""

from __future__ import annotations

import threading

import pytest

from tests.support.upstream import FakeResponse
from vllama_pool.router.errors import AttemptFailed, Faulty, ModelGone, Refused
from vllama_pool.router.offload import INLINE_BYTES
from vllama_pool.router.protocol.operation import DirectResponse, NextStep, PreflightRequest, UpstreamRequest
from vllama_pool.router.proxy.preflight import MAX_PREFLIGHTS, MAX_RESPONSE_BYTES, run_preflight
from vllama_pool.router.upstream.interface import ConnectionLost

SENT = UpstreamRequest("/v1/chat/completions", b"{}")


class Worker:
    """Sends its responses one after the other."""

    def __init__(self, *responses: FakeResponse) -> None:
        self.responses = list(responses)
        self.sent: list[tuple[str, bytes]] = []
        self.progress = 0
        self.size = 0

    async def send(self, path: str, body: bytes) -> FakeResponse:
        self.sent.append((path, body))
        return self.responses[len(self.sent) - 1]

    def record_progress(self) -> None:
        self.progress += 1

    async def follow(self, step: NextStep) -> UpstreamRequest | DirectResponse:
        return await run_preflight(step, self.send, self.record_progress, self.size)


async def test_a_step_without_preflight_sends_nothing() -> None:
    worker = Worker()
    assert await worker.follow(SENT) is SENT
    reply = DirectResponse(b"{}")
    assert await worker.follow(reply) is reply
    assert worker.sent == []


async def test_each_preflight_response_decides_the_next_step() -> None:
    worker = Worker(FakeResponse([b"on", b"e"]), FakeResponse([b"two"]))
    bodies: list[bytes] = []

    def then(step: NextStep) -> NextStep:
        def record(answer: bytes) -> NextStep:
            bodies.append(answer)
            return step

        return PreflightRequest(f"/{len(bodies)}", b"?", record)

    assert await worker.follow(then(then(SENT))) is SENT
    assert bodies == [b"one", b"two"]
    assert worker.progress == 2
    assert all(answer.closed for answer in worker.responses)


@pytest.mark.parametrize(
    ("size", "answer"), [(0, INLINE_BYTES + 1), (INLINE_BYTES + 1, 1), (INLINE_BYTES, INLINE_BYTES)]
)
async def test_the_step_after_a_large_response_or_request_runs_in_a_thread(size: int, answer: int) -> None:
    worker = Worker(FakeResponse([b" " * answer]))
    worker.size = size
    threads: list[int] = []

    def then(answer: bytes) -> NextStep:
        threads.append(threading.get_ident())
        return SENT

    await worker.follow(PreflightRequest("/tokenize", b"", then))
    assert (threads == [threading.get_ident()]) is (max(size, answer) <= INLINE_BYTES)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (FakeResponse([b'{"error":{"message":"bad","code":400}}'], 400), Refused),
        (FakeResponse([b'{"error":{"message":"no such model","code":404}}'], 404), ModelGone),
        (FakeResponse([b"oops"], 500), Faulty),
        (FakeResponse([b"x" * 2**20] * (MAX_RESPONSE_BYTES // 2**20 + 1)), Refused),
    ],
    ids=["refused", "gone", "faulty", "endless"],
)
async def test_a_failed_preflight_is_classified_like_a_failed_request(
    answer: FakeResponse, kind: type[AttemptFailed]
) -> None:
    worker = Worker(answer)
    with pytest.raises(kind):
        await worker.follow(PreflightRequest("/tokenize", b"", lambda answer: SENT))
    assert answer.closed


@pytest.mark.parametrize(
    "answer",
    [FakeResponse([b"{}"], 404), FakeResponse([b"<html>"], 403), FakeResponse([b"{}"], 405)],
    ids=["missing", "forbidden", "wrong method"],
)
async def test_a_blocked_preflight_route_is_a_501(answer: FakeResponse) -> None:
    worker = Worker(answer)
    with pytest.raises(Refused, match="/tokenize") as caught:
        await worker.follow(PreflightRequest("/tokenize", b"", lambda answer: SENT))
    assert caught.value.status == 501


async def test_a_lost_preflight_response_is_closed() -> None:
    worker = Worker(FakeResponse([ConnectionLost("gone")]))
    with pytest.raises(ConnectionLost):
        await worker.follow(PreflightRequest("/tokenize", b"", lambda answer: SENT))
    assert worker.responses[0].closed


async def test_endless_preflights_fail_after_the_limit() -> None:
    def again(answer: bytes) -> NextStep:
        return PreflightRequest("/tokenize", b"", again)

    worker = Worker(*(FakeResponse([b"x"]) for _ in range(MAX_PREFLIGHTS + 1)))
    with pytest.raises(Faulty, match="nowhere"):
        await worker.follow(again(b""))
    assert len(worker.sent) == MAX_PREFLIGHTS
