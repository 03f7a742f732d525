"""Questions that come before a request: followed to their end, within bounds, each connection given back."""

from __future__ import annotations

import threading

import pytest

from tests.support.vllm.canned_response import Canned
from vllama_pool.router.errors import AttemptFailed, Faulty, ModelGone, Refused
from vllama_pool.router.offload import INLINE_BYTES
from vllama_pool.router.protocol.operation import DirectResponse, NextStep, PreflightRequest, UpstreamRequest
from vllama_pool.router.proxy.preflight import ANSWER_LIMIT, MOST_QUESTIONS, follow
from vllama_pool.router.upstream.interface import ConnectionLost

SENT = UpstreamRequest("/v1/chat/completions", b"{}")


def given(chunks: list[bytes], status: int = 200, *, lost: bool = False) -> Canned:
    return Canned(status, chunks=chunks, lost=lost)


class Worker:
    """Gives its answers one after the other."""

    def __init__(self, *answers: Canned) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, bytes]] = []
        self.heard = 0
        self.size = 0

    async def send(self, path: str, body: bytes) -> Canned:
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
    worker = Worker(given([b"on", b"e"]), given([b"two"]))
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
    worker = Worker(given([b" " * answer]))
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
        (given([b'{"error":{"message":"bad","code":400}}'], 400), Refused),
        (given([b'{"error":{"message":"no such model","code":404}}'], 404), ModelGone),
        (given([b"oops"], 500), Faulty),
        (given([b"x" * 2**20] * (ANSWER_LIMIT // 2**20 + 1)), Refused),
    ],
    ids=["refused", "gone", "faulty", "endless"],
)
async def test_a_bad_answer_is_typed_as_one_to_the_request_would_be(answer: Canned, kind: type[AttemptFailed]) -> None:
    worker = Worker(answer)
    with pytest.raises(kind):
        await worker.follow(PreflightRequest("/tokenize", b"", lambda answer: SENT))
    assert answer.closed


@pytest.mark.parametrize(
    "answer",
    [given([b"{}"], 404), given([b"<html>"], 403), given([b"{}"], 405)],
    ids=["mark_down", "filtered", "read only"],
)
async def test_a_worker_without_such_a_route_is_neither_ill_nor_its_model_missing(answer: Canned) -> None:
    worker = Worker(answer)
    with pytest.raises(Refused, match="/tokenize") as caught:
        await worker.follow(PreflightRequest("/tokenize", b"", lambda answer: SENT))
    assert caught.value.status == 501


async def test_a_lost_connection_is_given_back() -> None:
    worker = Worker(given([], lost=True))
    with pytest.raises(ConnectionLost):
        await worker.follow(PreflightRequest("/tokenize", b"", lambda answer: SENT))
    assert worker.answers[0].closed


async def test_questions_without_end_are_given_up() -> None:
    def again(answer: bytes) -> NextStep:
        return PreflightRequest("/tokenize", b"", again)

    worker = Worker(*(given([b"x"]) for _ in range(MOST_QUESTIONS + 1)))
    with pytest.raises(Faulty, match="nowhere"):
        await worker.follow(again(b""))
    assert len(worker.asked) == MOST_QUESTIONS
