"""One attempt: the request as it is sent, its preflights, and the end of its answer."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import struct
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.support.balance import worker_in
from tests.support.forwarding import CHAT, Fleet, asking, exchange_of, ok, refused, status
from tests.support.protocol import CLOCK, TIMING, event
from tests.support.until import auntil
from tests.support.upstream import FakeResponse, Hang
from vllama_pool.router.errors import ClientError
from vllama_pool.router.offload import INLINE_BYTES
from vllama_pool.router.protocol.ollama.embed import decode_embed
from vllama_pool.router.protocol.ollama.embed_response import EmbedTranslator
from vllama_pool.router.protocol.operation import DirectResponse, Operation, PreflightRequest, UpstreamRequest
from vllama_pool.router.proxy.attempt import MAX_INLINE_FINISH
from vllama_pool.router.proxy.in_flight import ClientGone
from vllama_pool.router.upstream.interface import ConnectFailed, ConnectionLost, TransportError


@pytest.mark.parametrize("size", [INLINE_BYTES, INLINE_BYTES + 1])
async def test_only_a_large_request_is_prepared_and_adapted_in_a_thread(size: int) -> None:
    threads: list[int] = []

    def recorded(work: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            threads.append(threading.get_ident())
            return work(*args)

        return called

    assert CHAT.adapt is not None
    operation = dataclasses.replace(CHAT, prepare=recorded(CHAT.prepare), adapt=recorded(CHAT.adapt))
    too_long = "This model's maximum context length is 10 tokens."
    fleet = Fleet(a=[status(400, too_long), status(400, too_long)])
    in_flight = fleet.begin(operation=operation, size=size)
    with pytest.raises(ClientError, match="context length"):
        await in_flight.run()
    in_flight.close()
    assert len(threads) == 2
    assert (set(threads) == {threading.get_ident()}) is (size <= INLINE_BYTES)


async def test_the_connect_timeout_is_passed_to_the_client_and_retried() -> None:
    fleet = Fleet(a=[ConnectFailed("no connection within 0.7 s")], b=[ok()])
    assert await fleet.answer()
    assert fleet.upstream.connect_timeouts == {0.7}


async def test_preflight_and_request_go_to_one_worker_as_one_attempt() -> None:
    def prepare(*_: Any) -> PreflightRequest:
        return PreflightRequest("/tokenize", b"?", lambda counted: UpstreamRequest("/v1/chat/completions", counted))

    fleet = Fleet(a=[FakeResponse([b"3 ", b"tokens"]), ok()], b=[])
    assert await fleet.answer(operation=dataclasses.replace(CHAT, prepare=prepare))
    assert fleet.upstream.sent == [("a", "/tokenize", b"?"), ("a", "/v1/chat/completions", b"3 tokens")]
    assert fleet.record.attempts == 1


async def test_a_failed_preflight_repeats_the_whole_attempt_on_another_worker() -> None:
    def prepare(*_: Any) -> PreflightRequest:
        return PreflightRequest("/tokenize", b"?", lambda _: UpstreamRequest("/v1/chat/completions", b"{}"))

    fleet = Fleet(a=[refused()], b=[FakeResponse([b"3"]), ok()])
    assert await fleet.answer(operation=dataclasses.replace(CHAT, prepare=prepare))
    assert fleet.upstream.workers == ["a", "b", "b"]


async def test_a_preflight_may_answer_the_client_directly() -> None:
    reply = DirectResponse(b"{}")
    operation = dataclasses.replace(CHAT, prepare=lambda *_: PreflightRequest("/tokenize", b"?", lambda _: reply))
    fleet = Fleet(a=[FakeResponse([b"3"])])
    assert await fleet.forward(operation=operation) is reply
    assert fleet.writer.status == 0
    fleet.assert_idle()


async def test_a_bug_in_prepare_leaks_nothing_and_leaves_the_worker_healthy() -> None:
    def prepare(*_: Any) -> UpstreamRequest:
        raise RuntimeError("a bug")

    fleet = Fleet(a=[], b=[])
    with pytest.raises(RuntimeError):
        await fleet.forward(operation=dataclasses.replace(CHAT, prepare=prepare))
    fleet.assert_idle()
    assert worker_in(fleet.pool, "a").is_available(1060)


@pytest.mark.parametrize("last", [[Hang()], [ConnectionLost("reset")], []], ids=["cancelled", "lost", "ended"])
async def test_the_tokens_of_a_discarded_response_are_counted_and_it_is_closed_once(last: list[Any]) -> None:
    generated = event(choices=[{"index": 0, "delta": {"content": "hi"}}], usage={"completion_tokens": 1})
    steps = [generated, *last]
    fleet = Fleet(a=[FakeResponse(steps)])
    answering = asyncio.create_task(fleet.forward(stream=False))
    await auntil(lambda: bool(fleet.upstream.exchanges) and fleet.upstream.exchanges[0].played >= len(steps))
    answering.cancel()
    with pytest.raises((asyncio.CancelledError, ClientError)):
        await answering
    assert fleet.record.discarded_tokens == 1
    assert [exchange.closed for exchange in fleet.upstream.exchanges] == [1]
    fleet.assert_idle()


async def test_an_answer_that_is_cut_off_closes_the_workers_response() -> None:
    def translator(*args: Any) -> Any:
        made: Any = CHAT.translator(*args)
        made.cut_off = True
        return made

    fleet = Fleet(a=[ok()])
    assert await fleet.answer(operation=dataclasses.replace(CHAT, translator=translator))
    (exchange,) = fleet.upstream.exchanges
    assert (exchange.finished, exchange.closed) == (0, 1)


class RecordingTranslator(EmbedTranslator):
    """Records the thread that called `finish`."""

    def __init__(self, count: int, finished_in: list[threading.Thread]) -> None:
        super().__init__(decode_embed(json.dumps({"model": "m", "input": ["x"] * count}).encode()), TIMING, CLOCK)
        self._finished_in = finished_in

    def finish(self) -> bytes:
        self._finished_in.append(threading.current_thread())
        return super().finish()


def embedding(count: int, threads: list[threading.Thread] | None = None) -> Operation[Any]:
    finished_in: list[threading.Thread] = [] if threads is None else threads
    return dataclasses.replace(CHAT, translator=lambda *_: RecordingTranslator(count, finished_in))


def vectors(values: Iterable[float], dimensions: int = 1) -> bytes:
    items = [base64.b64encode(struct.pack("<f", value) * dimensions).decode() for value in values]
    return json.dumps({"data": [{"index": index, "embedding": item} for index, item in enumerate(items)]}).encode()


async def test_a_large_response_is_finished_in_a_thread_while_the_event_loop_runs() -> None:
    body, threads, ticks = vectors([2.0] * 200, 1024), list[threading.Thread](), 0
    assert len(body) > 2 * MAX_INLINE_FINISH

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    fleet = Fleet(a=[FakeResponse([body[:1000], body[1000:]])])
    ticking = asyncio.create_task(tick())
    answer = await fleet.answer(stream=False, operation=embedding(200, threads))
    ticking.cancel()
    assert json.loads(answer)["embeddings"] == [[0.03125] * 1024] * 200
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()
    assert ticks > 3


async def test_a_small_response_is_finished_in_the_event_loop() -> None:
    threads: list[threading.Thread] = []
    fleet = Fleet(a=[FakeResponse([vectors([1.0, -3.0])])])
    answer = await fleet.answer(stream=False, operation=embedding(2, threads))
    assert json.loads(answer)["embeddings"] == [[1], [-1]]
    assert threads == [threading.current_thread()]


async def test_a_client_that_leaves_while_a_large_response_is_finished_gets_none() -> None:
    finishing, release = threading.Event(), threading.Event()

    class Slow(EmbedTranslator):
        def finish(self) -> bytes:
            finishing.set()
            release.wait(5)
            return super().finish()

    request = decode_embed(json.dumps({"model": "m", "input": ["x"] * 40}).encode())
    operation = dataclasses.replace(CHAT, translator=lambda *_: Slow(request, TIMING, CLOCK))
    fleet = Fleet(a=[FakeResponse([vectors([2.0] * 40, 1024)])])
    forwarding = asyncio.create_task(fleet.forward(stream=False, operation=operation))
    await auntil(finishing.is_set)
    fleet.in_flight.client_gone()
    with pytest.raises(ClientGone):
        await forwarding
    release.set()
    assert fleet.writer.status == 0
    fleet.assert_idle()


@pytest.mark.parametrize(
    ("body", "client_status", "text", "workers"),
    [
        (vectors([float("nan")]), 400, "NaN or Inf", ["a"]),
        (b"{}", 502, "are invalid", ["a", "b"]),
        (b"", 502, "are invalid", ["a", "b"]),
    ],
)
async def test_a_failure_found_at_the_end_of_the_body_is_classified(
    body: bytes, client_status: int, text: str, workers: list[str]
) -> None:
    fleet = Fleet(a=[FakeResponse([body] if body else [])], b=[FakeResponse([body] if body else [])])
    error = await fleet.refusal(stream=False, operation=embedding(1))
    assert error.status == client_status
    assert text in error.text
    assert fleet.upstream.workers == workers
    assert fleet.answers_announced == 0


async def test_an_answer_that_is_invalid_at_its_end_is_replaced_by_another_workers() -> None:
    fleet = Fleet(a=[FakeResponse([b"{}"])], b=[FakeResponse([vectors([1.0])])])
    answer = await fleet.answer(stream=False, operation=embedding(1))
    assert json.loads(answer)["embeddings"] == [[1]]
    assert fleet.record.failures == ["Unavailable"]


@pytest.mark.parametrize("failure", [ConnectionLost("reset"), None])
async def test_each_preflights_exchange_is_closed(failure: TransportError | None) -> None:
    fleet = Fleet(a=[FakeResponse([b"3", failure] if failure else [b"3"]), ok()], b=[FakeResponse([b"3"]), ok()])
    operation = asking(lambda counted: UpstreamRequest("/v1/chat/completions", counted))
    assert await fleet.answer(operation=operation)
    first, *_, last = fleet.upstream.exchanges
    assert (first.closed, last.finished) == (1, 1)
    assert fleet.record.attempts == (2 if failure else 1)


async def test_a_stalled_preflight_moves_the_request_to_another_worker() -> None:
    fleet = Fleet(a=[FakeResponse([Hang()])], b=[FakeResponse([b"3"]), ok()])
    operation = asking(lambda counted: UpstreamRequest("/v1/chat/completions", counted))
    answering = asyncio.create_task(fleet.answer(operation=operation))
    exchange = await exchange_of(fleet, played=1)
    fleet.stalls.check(exchange.last_heard + 301)
    assert await answering
    assert fleet.upstream.workers == ["a", "b", "b"]
