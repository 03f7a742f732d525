"""Reading an answer until it may begin."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import threading
from collections.abc import Iterable

import pytest

from tests.support.protocol import CLOCK, TIMING
from tests.support.upstream import FakeResponse
from vllama_pool.router.errors import Refused, Unavailable
from vllama_pool.router.protocol.ollama.embed import decode_embed
from vllama_pool.router.protocol.ollama.embed_response import EmbedTranslator
from vllama_pool.router.proxy.attempt import FINISHED_AT_ONCE, first_content


class Watched(EmbedTranslator):
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
    translator = embedding(40)
    begun: list[int] = []
    first = await first_content(FakeResponse([body[:1000], body[1000:]]), translator, lambda: begun.append(1))
    assert json.loads(first)["embeddings"] == [[0.03125] * 1024] * 40
    assert translator.finished_in is not threading.current_thread()
    assert len(begun) == 2


async def test_the_end_of_a_small_answer_is_worked_out_at_once() -> None:
    translator = embedding(2)
    first = await first_content(FakeResponse([vectors([1.0, -3.0])]), translator, lambda: None)
    assert json.loads(first)["embeddings"] == [[1], [-1]]
    assert translator.finished_in is threading.current_thread()


async def test_the_loop_goes_on_while_a_large_answer_is_worked_out() -> None:
    """Otherwise every stream of this process would stand still for that long."""
    count, ticks = 200, 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticking = asyncio.get_running_loop().create_task(tick())
    await first_content(FakeResponse([vectors([2.0] * count, 1024)]), embedding(count), lambda: None)
    ticking.cancel()
    assert ticks > 3


async def test_what_the_end_of_an_answer_shows_is_told() -> None:
    for body, kind, text in (
        (vectors([float("nan")]), Refused, "NaN or Inf"),
        (b"{}", Unavailable, "are invalid"),
        (b"", Unavailable, "are invalid"),
    ):
        with pytest.raises(kind, match=text):
            await first_content(FakeResponse([body]), embedding(1), lambda: None)
