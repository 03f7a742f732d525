"""Questions that come before a request: followed to their end, within bounds, each connection given back."""

from __future__ import annotations

import threading

import pytest

from tests.support.upstream import FakeResponse
from vllama_pool.router.errors import AttemptFailed, Faulty, ModelGone, Refused
from vllama_pool.router.offload import INLINE_BYTES
from vllama_pool.router.protocol.operation import DirectResponse, NextStep, PreflightRequest, UpstreamRequest
from vllama_pool.router.proxy.preflight import ANSWER_LIMIT, MOST_QUESTIONS, follow
from vllama_pool.router.upstream.interface import ConnectionLost

SENT = UpstreamRequest("/v1/chat/completions", b"{}")


class Worker:
    """Gives its answers one after the other."""

    def __init__(self, *answers: FakeResponse) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, bytes]] = []
        self.heard = 0
        self.size = 0

    async def send(self, path: str, body: bytes) -> FakeResponse:
        self.asked.append((path, body))
        return self.answers[len(self.asked) - 1]

    def hear(self) -> None:
        self.heard += 1

    async def follow(self, step: NextStep) -> UpstreamRequest | DirectResponse:
        return await follow(step, self.send, self.hear, self.size)


async def test_what_needs_no_question_is_asked_nothing() -> None:
    worker = Worker()
    assert await worker.follow(SENT) is SENT
    reply = DirectResponse(b"{}")
    assert await worker.follow(reply) is reply
    assert worker.asked == []


async def test_each_answer_leads_to_the_next_step() -> None:
    worker = Worker(FakeResponse([b"on", b"e"]), FakeResponse([b"two"]))
    seen: list[bytes] = []

    def then(step: NextStep) -> NextStep:
        def take(answer: bytes) -> NextStep:
            seen.append(answer)
            return step

        return PreflightRequest(f"/{len(seen)}", b"?", take)

    assert await worker.follow(then(then(SENT))) is SENT
    assert seen == [b"one", b"two"]
    assert worker.heard == 2
    assert all(answer.closed for answer in worker.answers)


@pytest.mark.parametrize(
    ("size", "answer"), [(0, INLINE_BYTES + 1), (INLINE_BYTES + 1, 1), (INLINE_BYTES, INLINE_BYTES)]
)
async def test_what_follows_for_much_text_is_worked_out_beside_the_event_loop(size: int, answer: int) -> None:
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
        (FakeResponse([b"x" * 2**20] * (ANSWER_LIMIT // 2**20 + 1)), Refused),
    ],
    ids=["refused", "gone", "faulty", "endless"],
)
async def test_a_bad_answer_is_typed_as_one_to_the_request_would_be(
    answer: FakeResponse, kind: type[AttemptFailed]
) -> None:
    worker = Worker(answer)
    with pytest.raises(kind):
        await worker.follow(PreflightRequest("/tokenize", b"", lambda answer: SENT))
    assert answer.closed


@pytest.mark.parametrize(
    "answer",
    [FakeResponse([b"{}"], 404), FakeResponse([b"<html>"], 403), FakeResponse([b"{}"], 405)],
    ids=["mark_down", "filtered", "read only"],
)
async def test_a_worker_without_such_a_route_is_neither_ill_nor_its_model_missing(answer: FakeResponse) -> None:
    worker = Worker(answer)
    with pytest.raises(Refused, match="/tokenize") as caught:
        await worker.follow(PreflightRequest("/tokenize", b"", lambda answer: SENT))
    assert caught.value.status == 501


async def test_a_lost_connection_is_given_back() -> None:
    worker = Worker(FakeResponse([ConnectionLost("gone")]))
    with pytest.raises(ConnectionLost):
        await worker.follow(PreflightRequest("/tokenize", b"", lambda answer: SENT))
    assert worker.answers[0].closed


async def test_questions_without_end_are_given_up() -> None:
    def again(answer: bytes) -> NextStep:
        return PreflightRequest("/tokenize", b"", again)

    worker = Worker(*(FakeResponse([b"x"]) for _ in range(MOST_QUESTIONS + 1)))
    with pytest.raises(Faulty, match="nowhere"):
        await worker.follow(again(b""))
    assert len(worker.asked) == MOST_QUESTIONS
