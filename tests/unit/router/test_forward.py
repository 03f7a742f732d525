"""Reading an answer until it may begin; what a worker's refusal means, and what the client is told of it."""

import asyncio
import base64
import json
import struct
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pytest

from router.errors import Busy, Lost, Refused, Unavailable
from router.forward import FINISHED_AT_ONCE, client_error, first_content
from router.protocol.embed import decode_embed
from router.protocol.embed_fold import EmbedFold
from router.refusals import worker_refused
from tests.support.protocol import CLOCK, TIMING


@dataclass
class Canned:
    """A worker's answer."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    """Of the body."""

    async def read(self) -> bytes:
        return self.chunks.pop(0) if self.chunks else b""

    def attach(self, sink: object) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0", 1), ("9" * 400, 600), ("Wed, 21 Oct 2026 07:28:00 GMT", 1), ("-5", 1), ("\u0663", 1), (None, 1)],
)
def test_the_worker_says_when_to_come_back_within_reason(header: str | None, seconds: int) -> None:
    failure = worker_refused(Canned(429, {"retry-after": header} if header is not None else {}), b"busy")
    assert isinstance(failure, Busy)
    assert client_error(failure).retry_after == seconds


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_the_worker_refuses_is_not_the_clients(status: int) -> None:
    failure = worker_refused(Canned(status), b"")
    assert isinstance(failure, Unavailable)
    assert client_error(failure).status == 502


def test_a_redirect_is_no_answer() -> None:
    assert client_error(worker_refused(Canned(302), b"")).status == 502


def test_a_lost_worker_is_a_503_and_a_late_one_a_504() -> None:
    assert client_error(Lost("gone")).status == 503
    assert client_error(Lost("late", status=504)).status == 504
    assert client_error(Refused("bad", status=400)).retry_after is None


# --- until the answer may begin


class Watched(EmbedFold):
    """Remembers where its end was worked out."""

    finished_in: threading.Thread | None = None

    def finish(self) -> bytes:
        self.finished_in = threading.current_thread()
        return super().finish()


def embedding(count: int) -> Watched:
    return Watched(decode_embed(json.dumps({"model": "m", "input": ["x"] * count}).encode()), TIMING, CLOCK)


def vectors(values: Iterable[float], dimensions: int = 1) -> bytes:
    items = [base64.b64encode(struct.pack("<f", value) * dimensions).decode() for value in values]
    return json.dumps({"data": [{"index": index, "embedding": item} for index, item in enumerate(items)]}).encode()


async def test_the_end_of_a_large_answer_is_worked_out_beside_the_loop() -> None:
    body = vectors([2.0] * 40, 1024)
    assert len(body) > 2 * FINISHED_AT_ONCE
    fold = embedding(40)
    begun: list[int] = []
    first = await first_content(Canned(200, chunks=[body[:1000], body[1000:]]), fold, lambda: begun.append(1))
    assert json.loads(first)["embeddings"] == [[0.03125] * 1024] * 40
    assert fold.finished_in is not threading.current_thread()
    assert len(begun) == 2


async def test_the_end_of_a_small_answer_is_worked_out_at_once() -> None:
    fold = embedding(2)
    first = await first_content(Canned(200, chunks=[vectors([1.0, -3.0])]), fold, lambda: None)
    assert json.loads(first)["embeddings"] == [[1], [-1]]
    assert fold.finished_in is threading.current_thread()


async def test_the_loop_goes_on_while_a_large_answer_is_worked_out() -> None:
    """Otherwise every stream of this process would stand still for that long."""
    count, ticks = 200, 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticking = asyncio.get_running_loop().create_task(tick())
    await first_content(Canned(200, chunks=[vectors([2.0] * count, 1024)]), embedding(count), lambda: None)
    ticking.cancel()
    assert ticks > 3


async def test_what_the_end_of_an_answer_shows_is_told() -> None:
    for body, kind, text in (
        (vectors([float("nan")]), Refused, "NaN or Inf"),
        (b"{}", Unavailable, "not understood"),
        (b"", Unavailable, "not understood"),
    ):
        with pytest.raises(kind, match=text):
            await first_content(Canned(200, chunks=[body]), embedding(1), lambda: None)
