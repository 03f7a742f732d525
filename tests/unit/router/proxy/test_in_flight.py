"""One request: its endings, the client's leaving at each moment, and the release of what it holds."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import gc
import json
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import pytest

from tests.support.balance import worker_in
from tests.support.forwarding import CHAT, END, HI, ROLE, Fleet, ok, refused, silent, status
from tests.support.protocol import CLOCK, TIMING, event
from tests.support.until import auntil
from tests.support.upstream import FakeExchange, FakeResponse, Hang
from vllama_pool.router.errors import ClientError
from vllama_pool.router.protocol.ollama.embed import decode_embed
from vllama_pool.router.protocol.ollama.embed_response import EmbedTranslator
from vllama_pool.router.protocol.operation import Operation, PreflightRequest, UpstreamRequest
from vllama_pool.router.proxy.attempt import MAX_INLINE_FINISH, Attempt
from vllama_pool.router.proxy.in_flight import ClientGone
from vllama_pool.router.upstream.interface import ConnectionLost, TransportError

FOREVER = FakeResponse([HI, Hang()])
"""A response that begins and does not end."""


async def exchange_of(fleet: Fleet, *, played: int = 0) -> FakeExchange:
    """Return the latest exchange once it has played this many steps."""
    await auntil(lambda: bool(fleet.upstream.exchanges) and fleet.upstream.exchanges[-1].played >= played)
    return fleet.upstream.exchanges[-1]


# endings


async def test_a_complete_answer_is_recorded_and_the_rest_of_the_workers_response_is_discarded() -> None:
    fleet = Fleet(a=[FakeResponse([HI, END, Hang()])])
    lines = [json.loads(line) for line in (await fleet.answer()).splitlines()]
    assert [line["done"] for line in lines] == [False, True]
    assert fleet.writer.ended
    (exchange,) = fleet.upstream.exchanges
    assert (exchange.finished, exchange.closed) == (1, 0)
    record = fleet.record
    assert (record.outcome, record.prompt_tokens, record.completion_tokens) == ("complete", 1, 1)
    assert record.done_reason == "stop"
    assert fleet.upstream.request_ids == ["id"]
    assert fleet.answers_announced == 0


async def test_an_answer_that_is_cut_off_closes_the_workers_response() -> None:
    def translator(*args: Any) -> Any:
        made: Any = CHAT.translator(*args)
        made.cut_off = True
        return made

    fleet = Fleet(a=[ok()])
    assert await fleet.answer(operation=dataclasses.replace(CHAT, translator=translator))
    (exchange,) = fleet.upstream.exchanges
    assert (exchange.finished, exchange.closed) == (0, 1)


async def test_a_whole_answer_is_one_write_with_its_length_announced_before() -> None:
    fleet = Fleet(a=[FakeResponse([HI, END, Hang()])])
    body = await fleet.answer(stream=False)
    assert json.loads(body)["message"]["content"] == "hi"
    assert (fleet.writer.writes, fleet.writer.ended) == ([body], True)
    assert fleet.writer.headers[b"content-length"] == str(len(body)).encode()
    assert fleet.answers_announced == 1
    assert fleet.record.outcome == "complete"
    assert fleet.record.completion_tokens == 1
    (exchange,) = fleet.upstream.exchanges
    assert (exchange.finished, exchange.closed) == (1, 0)


async def test_a_worker_lost_in_mid_stream_becomes_suspect_and_its_response_is_closed() -> None:
    fleet = Fleet(a=[FakeResponse([HI, ConnectionLost("reset")])])
    assert b"the worker was lost" in await fleet.answer()
    assert fleet.record.outcome == "lost"
    assert worker_in(fleet.pool, "a").is_suspect(1060)
    assert fleet.upstream.exchanges[0].closed == 1


async def test_an_error_event_in_mid_stream_is_recorded_as_failed() -> None:
    fleet = Fleet(a=[FakeResponse([HI, event(error={"message": "engine died", "code": 500})])])
    assert b"engine died" in await fleet.answer()
    assert fleet.record.outcome == "failed"
    assert fleet.upstream.exchanges[0].closed == 1


async def test_a_stalled_worker_ends_the_stream_with_an_error_line() -> None:
    fleet = Fleet(a=[FOREVER])
    answering = asyncio.create_task(fleet.answer())
    exchange = await exchange_of(fleet, played=2)
    fleet.stalls.check(exchange.last_heard + 119)
    assert not fleet.writer.ended
    fleet.stalls.check(exchange.last_heard + 121)
    assert b"fell silent" in await answering
    assert fleet.record.outcome == "lost"


async def test_a_worker_is_not_blamed_while_the_client_holds_up_the_response() -> None:
    fleet = Fleet(lagging=True, a=[FakeResponse([HI, HI, END])])
    answering = asyncio.create_task(fleet.answer())
    exchange = await exchange_of(fleet, played=1)
    await auntil(lambda: exchange.paused)
    fleet.stalls.check(exchange.last_heard + 10_000)
    fleet.writer.catch_up()
    assert await answering
    assert fleet.record.outcome == "complete"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_is_dropped_ends_the_request_and_does_not_blame_the_worker(stream: bool) -> None:
    fleet = Fleet(lagging=True, a=[ok()])
    forwarding = asyncio.create_task(fleet.forward(stream=stream))
    await auntil(lambda: bool(fleet.writers) and bool(fleet.writer.writes))
    fleet.writer.drop()
    await forwarding
    assert fleet.record.outcome == "client stalled"
    assert worker_in(fleet.pool, "a").is_available(1060)
    fleet.assert_idle()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_lasts_until_a_slow_client_has_read_its_answer(stream: bool) -> None:
    fleet = Fleet(lagging=True, a=[FakeResponse([HI + END])])
    answering = asyncio.create_task(fleet.answer(stream=stream))
    await auntil(lambda: bool(fleet.writers) and fleet.writer.ended)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not answering.done()
    fleet.writer.catch_up()
    assert await answering
    assert fleet.record.outcome == "complete"


async def test_a_request_stops_waiting_once_its_response_begins() -> None:
    fleet = Fleet(a=[FOREVER])
    forwarding = asyncio.create_task(fleet.forward())
    await exchange_of(fleet, played=2)
    assert repr(fleet.forwarder) == "<Forwarder 0 waiting, 1 in flight>"
    assert (fleet.pool.in_flight, fleet.record.status) == (1, 200)
    forwarding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await forwarding
    fleet.assert_idle()
    assert worker_in(fleet.pool, "a").is_available(1060)


# the client leaves


def asking(then: Callable[[bytes], UpstreamRequest]) -> Operation[Any]:
    """A chat that needs a preflight."""
    return dataclasses.replace(CHAT, prepare=lambda *_: PreflightRequest("/tokenize", b"?", then))


WAITING: dict[str, dict[str, Any]] = {
    "before the head, or while connecting": {"a": [silent()]},
    "before the first content": {"a": [FakeResponse([ROLE, Hang()])]},
    "in an error body": {"a": [FakeResponse([Hang()], 500)]},
    "in a retry": {"a": [refused()], "b": [FakeResponse([ROLE, Hang()])]},
    "between two attempts": {"delay": 3600, "a": [refused()], "b": [refused()], "c": [ok()]},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("moment", WAITING)
async def test_a_client_that_leaves_before_its_response_ends_the_request(moment: str, stream: bool) -> None:
    fleet = Fleet(**WAITING[moment])
    forwarding = asyncio.create_task(fleet.forward(stream=stream))
    await auntil(lambda: bool(fleet.upstream.sent))
    for _ in range(9):
        await asyncio.sleep(0)
    fleet.in_flight.client_gone()
    with pytest.raises(ClientGone):
        await forwarding
    assert fleet.in_flight.client_left
    assert fleet.writer.status == 0
    assert worker_in(fleet.pool, list(WAITING[moment])[-1]).is_available(1060)
    fleet.assert_idle()


async def test_a_client_that_leaves_during_a_preflight_ends_the_request() -> None:
    fleet = Fleet(a=[FakeResponse([b"3", Hang()])])
    operation = asking(lambda counted: UpstreamRequest("/v1/chat/completions", counted))
    forwarding = asyncio.create_task(fleet.forward(operation=operation))
    await exchange_of(fleet, played=2)
    fleet.in_flight.client_gone()
    with pytest.raises(ClientGone):
        await forwarding
    fleet.assert_idle()


async def test_a_client_that_leaves_between_whole_answer_and_response_gets_none() -> None:
    fleet = Fleet(a=[silent()])
    forwarding = asyncio.create_task(fleet.forward(stream=False))
    exchange = await exchange_of(fleet)
    assert exchange.sink is not None
    exchange.sink.head(200, {})
    exchange.sink.data(HI + END)
    fleet.in_flight.client_gone()
    with pytest.raises(ClientGone):
        await forwarding
    assert fleet.writer.status == 0
    fleet.assert_idle()


async def test_a_client_that_leaves_in_mid_stream_ends_the_request_and_does_not_blame_the_worker() -> None:
    fleet = Fleet(a=[FOREVER])
    forwarding = asyncio.create_task(fleet.forward())
    exchange = await exchange_of(fleet, played=2)
    fleet.in_flight.client_gone()
    assert await forwarding is None
    assert (fleet.record.status, fleet.record.outcome) == (200, "client gone")
    assert (exchange.finished, exchange.closed) == (0, 1)
    assert not fleet.writer.ended
    assert worker_in(fleet.pool, "a").is_available(1060)
    fleet.assert_idle()


async def test_a_client_that_leaves_while_it_lags_ends_the_request() -> None:
    fleet = Fleet(lagging=True, a=[FakeResponse([HI, HI, Hang()])])
    forwarding = asyncio.create_task(fleet.forward())
    exchange = await exchange_of(fleet, played=1)
    await auntil(lambda: exchange.paused)
    fleet.in_flight.client_gone()
    await forwarding
    assert fleet.record.outcome == "client gone"
    fleet.assert_idle()


async def test_a_client_that_leaves_while_a_whole_answer_is_written_is_recorded_as_gone() -> None:
    fleet = Fleet(lagging=True, a=[ok()])
    forwarding = asyncio.create_task(fleet.forward(stream=False))
    await auntil(lambda: bool(fleet.writers) and fleet.writer.ended)
    fleet.in_flight.client_gone()
    fleet.writer.catch_up()
    await forwarding
    assert fleet.record.outcome == "client gone"
    fleet.assert_idle()


async def test_a_cancelled_request_stays_cancelled_although_its_client_left_too() -> None:
    fleet = Fleet(a=[FakeResponse([Hang()])])
    forwarding = asyncio.create_task(fleet.forward())
    await exchange_of(fleet, played=1)
    fleet.in_flight.client_gone()
    forwarding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await forwarding
    fleet.assert_idle()


async def test_a_client_that_leaves_does_not_undo_the_cancellation_of_its_stream() -> None:
    fleet = Fleet(a=[FOREVER])
    forwarding = asyncio.create_task(fleet.forward())
    await exchange_of(fleet, played=2)
    forwarding.cancel()
    fleet.in_flight.client_gone()
    with pytest.raises(asyncio.CancelledError):
        await forwarding
    fleet.assert_idle()


async def test_no_response_begins_once_the_client_has_left() -> None:
    fleet = Fleet(a=[FakeResponse([Hang()])])
    forwarding = asyncio.create_task(fleet.forward())
    exchange = await exchange_of(fleet, played=1)
    fleet.in_flight.client_gone()
    assert exchange.sink is not None
    exchange.sink.data(HI)
    with pytest.raises(ClientGone):
        await forwarding
    assert (fleet.writer.status, fleet.record.status) == (0, 0)
    fleet.assert_idle()


# answers that are finished at their end


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


# preflights


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


async def test_a_refusal_before_any_attempt_leaves_nothing() -> None:
    fleet = Fleet(a=[status(400)])
    assert (await fleet.refusal()).status == 400
    assert fleet.record.outcome == ""


def living_attempts() -> int:
    return sum(isinstance(thing, Attempt) for thing in gc.get_objects())


@pytest.mark.parametrize(
    "responses",
    [
        [ok()],
        [ConnectionLost("reset")],
        [FakeResponse([HI, ConnectionLost("reset")])],
        [status(503), status(503)],
        [status(400)],
    ],
    ids=["complete", "lost", "lost in mid-stream", "refused", "invalid"],
)
async def test_an_attempt_is_not_left_to_the_cycle_collector(responses: list[Any]) -> None:
    fleet = Fleet(a=responses)
    gc.collect()
    before = living_attempts()
    gc.disable()
    try:
        with suppress(ClientError):
            await fleet.answer()
        assert living_attempts() == before
    finally:
        gc.enable()
