"""Preflight requests: their order, limits and failures, and the sink that collects a response."""

from __future__ import annotations

import threading

import msgspec
import pytest

from vllama_pool.router.errors import AttemptFailed, Faulty, ModelGone, Refused, Unable
from vllama_pool.router.offload import INLINE_BYTES
from vllama_pool.router.protocol.operation import DirectResponse, NextStep, PreflightRequest, UpstreamRequest
from vllama_pool.router.proxy.preflight import (
    MAX_PREFLIGHTS,
    MAX_RESPONSE_BYTES,
    Answer,
    Collector,
    run_preflight,
)
from vllama_pool.router.proxy.worker_errors import MAX_ERROR_BODY
from vllama_pool.router.upstream.interface import ConnectionLost

SENT = UpstreamRequest("/v1/chat/completions", b"{}")


def answer(body: bytes = b"", status: int = 200) -> Answer:
    return Answer(status, {}, body)


class Worker:
    """Answers one preflight after the other."""

    def __init__(self, *answers: Answer | Exception, size: int = 0) -> None:
        self.answers = list(answers)
        self.size = size
        self.asked: list[tuple[str, bytes]] = []

    async def ask(self, path: str, body: bytes) -> Answer:
        self.asked.append((path, body))
        result = self.answers[len(self.asked) - 1]
        if isinstance(result, Exception):
            raise result
        return result

    async def follow(self, step: NextStep) -> UpstreamRequest | DirectResponse:
        return await run_preflight(step, self.ask, self.size)


async def test_a_step_without_preflight_sends_nothing() -> None:
    worker = Worker()
    assert await worker.follow(SENT) is SENT
    reply = DirectResponse(b"{}")
    assert await worker.follow(reply) is reply
    assert worker.asked == []


async def test_each_preflight_response_decides_the_next_step() -> None:
    worker = Worker(answer(b"one"), answer(b"two"))
    bodies: list[bytes] = []

    def then(step: NextStep) -> NextStep:
        def record(body: bytes) -> NextStep:
            bodies.append(body)
            return step

        return PreflightRequest(f"/{len(bodies)}", b"?", record)

    assert await worker.follow(then(then(SENT))) is SENT
    assert bodies == [b"one", b"two"]


@pytest.mark.parametrize(
    ("size", "length"), [(0, INLINE_BYTES + 1), (INLINE_BYTES + 1, 1), (INLINE_BYTES, INLINE_BYTES)]
)
async def test_the_step_after_a_large_response_or_request_runs_in_a_thread(size: int, length: int) -> None:
    worker = Worker(answer(b" " * length), size=size)
    threads: list[int] = []

    def then(_: bytes) -> NextStep:
        threads.append(threading.get_ident())
        return SENT

    await worker.follow(PreflightRequest("/tokenize", b"", then))
    assert (threads == [threading.get_ident()]) is (max(size, length) <= INLINE_BYTES)


@pytest.mark.parametrize(
    ("failed", "kind"),
    [
        (answer(b'{"error":{"message":"bad","code":400}}', 400), Refused),
        (answer(b'{"error":{"message":"no such model","code":404}}', 404), ModelGone),
        (answer(b"oops", 500), Faulty),
        (answer(b"x" * (MAX_RESPONSE_BYTES + 1)), Refused),
    ],
    ids=["refused", "gone", "faulty", "endless"],
)
async def test_a_failed_preflight_is_classified_like_a_failed_request(
    failed: Answer, kind: type[AttemptFailed]
) -> None:
    with pytest.raises(kind):
        await Worker(failed).follow(PreflightRequest("/tokenize", b"", lambda _: SENT))


@pytest.mark.parametrize("body", [b"", b"<html>", b"null"])
async def test_a_200_that_is_not_an_answer_is_a_501_for_which_another_worker_is_asked(body: bytes) -> None:
    def then(answer: bytes) -> NextStep:
        msgspec.json.decode(answer, type=dict[str, int])
        return SENT

    with pytest.raises(Unable, match="the worker's response to /count is invalid") as refused:
        await Worker(answer(body)).follow(PreflightRequest("/count", b"", then))
    assert refused.value.status == 501


@pytest.mark.parametrize(
    "blocked", [answer(b"{}", 404), answer(b"<html>", 403), answer(b"{}", 405)], ids=["missing", "forbidden", "method"]
)
async def test_a_blocked_preflight_route_is_a_501_for_which_another_worker_is_asked(blocked: Answer) -> None:
    with pytest.raises(Unable, match="/tokenize") as caught:
        await Worker(blocked).follow(PreflightRequest("/tokenize", b"", lambda _: SENT))
    assert caught.value.status == 501


async def test_a_lost_preflight_response_is_raised() -> None:
    with pytest.raises(ConnectionLost):
        await Worker(ConnectionLost("gone")).follow(PreflightRequest("/tokenize", b"", lambda _: SENT))


async def test_endless_preflights_fail_after_the_limit() -> None:
    def again(_: bytes) -> NextStep:
        return PreflightRequest("/tokenize", b"", again)

    worker = Worker(*(answer(b"x") for _ in range(MAX_PREFLIGHTS + 1)))
    with pytest.raises(Faulty, match="nowhere"):
        await worker.follow(again(b""))
    assert len(worker.asked) == MAX_PREFLIGHTS


async def test_the_collector_joins_the_chunks_of_a_response() -> None:
    collector = Collector()
    collector.head(200, {"x": "y"})
    collector.data(b"on")
    assert not collector.answer.done()
    collector.data(b"e")
    collector.eof()
    assert await collector.answer == Answer(200, {"x": "y"}, b"one")


async def test_the_collector_raises_the_loss_of_a_connection() -> None:
    collector = Collector()
    collector.lost(ConnectionLost("gone"))
    with pytest.raises(ConnectionLost):
        await collector.answer


@pytest.mark.parametrize(("status", "limit"), [(200, MAX_RESPONSE_BYTES), (500, MAX_ERROR_BODY)])
async def test_the_collector_ends_an_endless_response_at_its_limit_and_ignores_the_rest(
    status: int, limit: int
) -> None:
    collector = Collector()
    collector.head(status, {})
    collector.data(b"x" * limit)
    assert not collector.answer.done()
    collector.data(b"y")
    collected = await collector.answer
    assert len(collected.body) == limit + 1
    collector.data(b"z")
    collector.eof()
    collector.lost(ConnectionLost("gone"))
    assert await collector.answer is collected
