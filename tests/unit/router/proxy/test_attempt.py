"""Reading a worker's response until the client's may begin."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import threading
from collections.abc import Iterable

import pytest

from tests.support.protocol import CLOCK, DONE, TIMING, delta, event, usage
from tests.support.upstream import FakeResponse
from vllama_pool.router.errors import Busy, Faulty, Lost, Refused, Unavailable
from vllama_pool.router.protocol.ollama import chat
from vllama_pool.router.protocol.ollama.embed import decode_embed
from vllama_pool.router.protocol.ollama.embed_response import EmbedTranslator
from vllama_pool.router.protocol.ollama.requests import decode_chat
from vllama_pool.router.protocol.ollama.stream import TextTranslator
from vllama_pool.router.proxy.attempt import MAX_INLINE_FINISH, read_first_content


class RecordingTranslator(EmbedTranslator):
    """Records the thread that called `finish`."""

    finished_in: threading.Thread | None = None

    def finish(self) -> bytes:
        self.finished_in = threading.current_thread()
        return super().finish()


def embedding(count: int) -> RecordingTranslator:
    return RecordingTranslator(decode_embed(json.dumps({"model": "m", "input": ["x"] * count}).encode()), TIMING, CLOCK)


def vectors(values: Iterable[float], dimensions: int = 1) -> bytes:
    items = [base64.b64encode(struct.pack("<f", value) * dimensions).decode() for value in values]
    return json.dumps({"data": [{"index": index, "embedding": item} for index, item in enumerate(items)]}).encode()


async def test_a_large_response_is_finished_in_a_thread() -> None:
    body = vectors([2.0] * 40, 1024)
    assert len(body) > 2 * MAX_INLINE_FINISH
    translator = embedding(40)
    begun: list[int] = []
    first = await read_first_content(FakeResponse([body[:1000], body[1000:]]), translator, lambda: begun.append(1))
    assert json.loads(first)["embeddings"] == [[0.03125] * 1024] * 40
    assert translator.finished_in is not threading.current_thread()
    assert len(begun) == 2


async def test_a_small_response_is_finished_in_the_event_loop() -> None:
    translator = embedding(2)
    first = await read_first_content(FakeResponse([vectors([1.0, -3.0])]), translator, lambda: None)
    assert json.loads(first)["embeddings"] == [[1], [-1]]
    assert translator.finished_in is threading.current_thread()


async def test_the_event_loop_runs_while_a_large_response_is_finished() -> None:
    count, ticks = 200, 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticking = asyncio.get_running_loop().create_task(tick())
    await read_first_content(FakeResponse([vectors([2.0] * count, 1024)]), embedding(count), lambda: None)
    ticking.cancel()
    assert ticks > 3


async def test_a_failure_found_at_the_end_of_the_body_is_classified() -> None:
    for body, kind, text in (
        (vectors([float("nan")]), Refused, "NaN or Inf"),
        (b"{}", Unavailable, "are invalid"),
        (b"", Unavailable, "are invalid"),
    ):
        with pytest.raises(kind, match=text):
            await read_first_content(FakeResponse([body]), embedding(1), lambda: None)


ROLE = delta(role="assistant", content="")
HI = delta(content="hi")


def chatting(*, stream: bool = True) -> TextTranslator:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": stream})
    return chat.translator(decode_chat(body.encode()), TIMING, CLOCK)


class Begun:
    """Counts the calls of `on_content`."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


async def test_a_stream_is_read_up_to_its_first_content_and_no_further() -> None:
    response, begun = FakeResponse([ROLE, HI, delta(content=" you")]), Begun()
    first = await read_first_content(response, chatting(), begun)
    assert json.loads(first)["message"]["content"] == "hi"
    assert response.reads == 2
    assert begun.calls == 1


async def test_a_response_that_is_not_streamed_is_read_to_its_end_and_reports_each_chunk() -> None:
    chunks, begun = [ROLE, HI, delta(content=" you"), delta(finish="stop"), usage() + DONE], Begun()
    translator = chatting(stream=False)
    assert await read_first_content(FakeResponse(chunks), translator, begun) == b""
    assert json.loads(translator.finish())["message"]["content"] == "hi you"
    assert begun.calls == 4


@pytest.mark.parametrize(("status", "kind"), [(400, Refused), (429, Busy), (500, Faulty), (503, Unavailable)])
async def test_an_error_event_before_the_first_content_is_raised_at_once(status: int, kind: type[Exception]) -> None:
    response, begun = FakeResponse([ROLE, event(error={"message": "no", "code": status}), HI]), Begun()
    with pytest.raises(kind, match="no"):
        await read_first_content(response, chatting(), begun)
    assert response.reads == 2
    assert begun.calls == 0


async def test_an_error_event_after_content_that_is_not_streamed_is_raised_at_once() -> None:
    response = FakeResponse([HI, event(error={"message": "died", "code": 500}), DONE])
    with pytest.raises(Faulty, match="died"):
        await read_first_content(response, chatting(stream=False), Begun())
    assert response.reads == 2


async def test_an_error_event_in_one_chunk_with_the_first_content_is_left_to_the_relay() -> None:
    translator = chatting()
    chunk = HI + event(error={"message": "died", "code": 500})
    first = await read_first_content(FakeResponse([chunk]), translator, Begun())
    assert json.loads(first)["message"]["content"] == "hi"
    assert translator.failure is not None


@pytest.mark.parametrize("chunks", [[], [ROLE]])
async def test_a_stream_that_ends_before_its_first_content_is_lost(chunks: list[bytes]) -> None:
    with pytest.raises(Lost) as caught:
        await read_first_content(FakeResponse(chunks), chatting(), Begun())
    assert caught.value.status == 502
