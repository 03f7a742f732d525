"""Questions that come before a request: followed to their end, within bounds, each connection given back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from router.asking import ANSWER_LIMIT, MOST_QUESTIONS, follow
from router.errors import AttemptFailed, Faulty, ModelGone, Refused
from router.protocol.operation import Ask, Outgoing, Reply, Step
from router.transport import ConnectionLost, Sink

SENT = Outgoing("/v1/chat/completions", b"{}")


@dataclass
class Given:
    """A worker's answer."""

    chunks: list[bytes]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    closed: bool = False
    lost: bool = False

    async def read(self) -> bytes:
        if self.lost:
            raise ConnectionLost("gone")
        return self.chunks.pop(0) if self.chunks else b""

    def attach(self, sink: Sink) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None:
        self.closed = True


class Worker:
    """Gives its answers one after the other."""

    def __init__(self, *answers: Given) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, bytes]] = []
        self.heard = 0

    async def send(self, path: str, body: bytes) -> Given:
        self.asked.append((path, body))
        return self.answers[len(self.asked) - 1]

    def hear(self) -> None:
        self.heard += 1

    async def follow(self, step: Step) -> Outgoing | Reply:
        return await follow(step, self.send, self.hear)


async def test_what_needs_no_question_is_asked_nothing() -> None:
    worker = Worker()
    assert await worker.follow(SENT) is SENT
    reply = Reply(b"{}")
    assert await worker.follow(reply) is reply
    assert worker.asked == []


async def test_each_answer_leads_to_the_next_step() -> None:
    worker = Worker(Given([b"on", b"e"]), Given([b"two"]))
    seen: list[bytes] = []

    def then(step: Step) -> Step:
        def take(answer: bytes) -> Step:
            seen.append(answer)
            return step

        return Ask(f"/{len(seen)}", b"?", take)

    assert await worker.follow(then(then(SENT))) is SENT
    assert seen == [b"one", b"two"]
    assert worker.heard == 2
    assert all(answer.closed for answer in worker.answers)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (Given([b'{"error":{"message":"bad","code":400}}'], 400), Refused),
        (Given([b'{"error":{"message":"no such model","code":404}}'], 404), ModelGone),
        (Given([b"oops"], 500), Faulty),
        (Given([b"x" * 2**20] * (ANSWER_LIMIT // 2**20 + 1)), Refused),
    ],
    ids=["refused", "gone", "faulty", "endless"],
)
async def test_a_bad_answer_is_typed_as_one_to_the_request_would_be(given: Given, kind: type[AttemptFailed]) -> None:
    worker = Worker(given)
    with pytest.raises(kind):
        await worker.follow(Ask("/tokenize", b"", lambda answer: SENT))
    assert given.closed


async def test_a_worker_without_such_a_route_is_no_missing_model() -> None:
    worker = Worker(Given([b'{"detail":"Not Found"}'], 404))
    with pytest.raises(Refused, match="/tokenize") as caught:
        await worker.follow(Ask("/tokenize", b"", lambda answer: SENT))
    assert caught.value.status == 501


async def test_a_lost_connection_is_given_back() -> None:
    worker = Worker(Given([], lost=True))
    with pytest.raises(ConnectionLost):
        await worker.follow(Ask("/tokenize", b"", lambda answer: SENT))
    assert worker.answers[0].closed


async def test_questions_without_end_are_given_up() -> None:
    def again(answer: bytes) -> Step:
        return Ask("/tokenize", b"", again)

    worker = Worker(*(Given([b"x"]) for _ in range(MOST_QUESTIONS + 1)))
    with pytest.raises(Faulty, match="nowhere"):
        await worker.follow(again(b""))
    assert len(worker.asked) == MOST_QUESTIONS
