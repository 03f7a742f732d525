"""One request: its endings, the client's leaving at each moment, and the release of what it holds."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.balance import worker_in
from tests.support.forwarding import END, HI, ROLE, Fleet, asking, exchange_of, ok, refused, silent, status
from tests.support.protocol import event
from tests.support.until import auntil
from tests.support.upstream import FakeResponse, Hang
from vllama_pool.router.errors import STOPPING, Stopping
from vllama_pool.router.protocol.operation import UpstreamRequest
from vllama_pool.router.proxy.in_flight import ClientGone
from vllama_pool.router.upstream.interface import ConnectionLost

FOREVER = FakeResponse([HI, Hang()])
"""A response that begins and does not end."""


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


# the router stops


async def test_an_answer_in_progress_ends_with_one_error_when_the_router_stops() -> None:
    fleet = Fleet(a=[FOREVER])
    forwarding = asyncio.create_task(fleet.forward())
    await exchange_of(fleet, played=2)
    forwarding.cancel(msg=STOPPING)
    await forwarding
    first, last = map(json.loads, b"".join(fleet.writer.writes).splitlines())
    assert first["message"]["content"] == "hi"
    assert last["error"].endswith("the router is stopping; send the request again")
    assert (fleet.writer.ended, fleet.record.outcome, forwarding.cancelling()) == (True, "out of time", 0)
    fleet.assert_idle()
    assert worker_in(fleet.pool, "a").is_available(1060)


# the client leaves


WAITING: dict[str, dict[str, Any]] = {
    "before the head, or while connecting": {"a": [silent()]},
    "before the first content": {"a": [FakeResponse([ROLE, Hang()])]},
    "in an error body": {"a": [FakeResponse([Hang()], 500)]},
    "in a retry": {"a": [refused()], "b": [FakeResponse([ROLE, Hang()])]},
    "between two attempts": {"delay": 3600, "a": [refused()], "b": [refused()], "c": [ok()]},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("moment", WAITING)
async def test_a_request_without_an_answer_gets_one_error_when_the_router_stops(moment: str, stream: bool) -> None:
    fleet = Fleet(**WAITING[moment])
    forwarding = asyncio.create_task(fleet.forward(stream=stream))
    await auntil(lambda: bool(fleet.upstream.sent))
    for _ in range(9):
        await asyncio.sleep(0)
    forwarding.cancel(msg=STOPPING)
    with pytest.raises(Stopping) as stopping:
        await forwarding
    assert (stopping.value.status, stopping.value.retry_after, fleet.writer.status) == (503, 1, 0)
    fleet.assert_idle()


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


async def test_a_refusal_before_any_attempt_leaves_nothing() -> None:
    fleet = Fleet(a=[status(400)])
    assert (await fleet.refusal()).status == 400
    assert fleet.record.outcome == ""
