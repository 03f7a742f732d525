"""Attempts and retries of one request, with a scripted client."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.balance import DRAINING, worker_in
from tests.support.forwarding import CHAT, HI, ROLE, Fleet, ok, refused, silent, status
from tests.support.protocol import event
from tests.support.until import auntil
from tests.support.upstream import FakeResponse, Hang
from vllama_pool.router.errors import AttemptFailed, ClientError, NoWorker, ServerBusy
from vllama_pool.router.offload import INLINE_BYTES
from vllama_pool.router.protocol.operation import DirectResponse, PreflightRequest, UpstreamRequest
from vllama_pool.router.upstream.interface import ConnectFailed, ConnectionLost


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


async def test_a_refused_connection_moves_the_request_to_the_next_worker() -> None:
    fleet = Fleet(a=[refused()], b=[ok()])
    assert b'"hi"' in await fleet.answer()
    assert fleet.upstream.workers == ["a", "b"]
    assert (fleet.record.attempts, fleet.record.worker) == (2, "b")
    assert fleet.record.failures == ["Lost"]
    assert worker_in(fleet.pool, "a").is_suspect(1060)


async def test_the_connect_timeout_is_passed_to_the_client_and_retried() -> None:
    fleet = Fleet(a=[ConnectFailed("no connection within 0.7 s")], b=[ok()])
    assert await fleet.answer()
    assert fleet.upstream.connect_timeouts == {0.7}


async def test_a_500_is_retried_only_once() -> None:
    fleet = Fleet(a=[status(500, "boom")], b=[status(500, "boom too")], c=[ok()])
    error = await fleet.refusal()
    assert (error.status, error.text) == (500, "boom too")
    assert fleet.upstream.workers == ["a", "b"]


async def test_the_client_gets_the_second_workers_response_after_a_500() -> None:
    fleet = Fleet(a=[status(500)], b=[ok()])
    assert b'"hi"' in await fleet.answer()


@pytest.mark.parametrize("code", [429, 502, 503, 504])
async def test_a_429_502_503_or_504_is_retried_on_other_workers(code: int) -> None:
    fleet = Fleet(a=[status(code)], b=[status(code)], c=[ok()])
    assert b'"hi"' in await fleet.answer()
    assert fleet.upstream.workers == ["a", "b", "c"]


@pytest.mark.parametrize("code", [400, 413, 422])
async def test_a_4xx_is_never_retried(code: int) -> None:
    fleet = Fleet(a=[status(code, "bad input")], b=[ok()])
    error = await fleet.refusal()
    assert (error.status, error.text) == (code, "bad input")
    assert fleet.upstream.workers == ["a"]


async def test_a_404_for_a_claimed_model_is_retried_once_and_refreshes_the_records() -> None:
    gone = "The model `m` does not exist."
    fleet = Fleet(a=[status(404, gone)], b=[status(404, gone)], c=[ok()])
    assert (await fleet.refusal()).status == 404
    assert fleet.upstream.workers == ["a", "b"]
    assert len(fleet.refreshes) == 2


async def test_a_request_makes_at_most_three_attempts_on_distinct_workers() -> None:
    fleet = Fleet(a=[refused()], b=[refused()], c=[refused()], d=[ok()], e=[ok()])
    error = await fleet.refusal()
    assert (error.status, error.retry_after) == (503, 1)
    assert fleet.upstream.workers == ["a", "b", "c"]


async def test_the_client_gets_the_most_specific_failure_not_the_last() -> None:
    fleet = Fleet(a=[status(429, "at capacity")], b=[refused()], c=[refused()])
    error = await fleet.refusal()
    assert (error.status, error.text) == (429, "at capacity")


async def test_a_single_worker_is_not_tried_twice() -> None:
    fleet = Fleet(a=[refused(), ok()])
    assert (await fleet.refusal()).status == 503
    assert fleet.upstream.workers == ["a"]


async def test_retries_end_when_the_budget_is_empty() -> None:
    fleet = Fleet(a=[status(429) for _ in range(9)], b=[status(429) for _ in range(9)])
    for _ in range(6):
        assert (await fleet.refusal()).status == 429
    attempts = [record.attempts for record in fleet.records]
    assert attempts[0] == 3, "to both workers, and once more after it has waited"
    assert attempts[3:] == [1, 1, 2]
    assert sum(attempts) <= 6 * 1.2 + 3


async def test_a_first_lost_connection_is_retried_without_a_budget() -> None:
    fleet = Fleet(a=[*(status(503) for _ in range(3)), refused()], b=[*(status(503) for _ in range(3)), ok()])
    for _ in range(3):
        await fleet.refusal()
    assert await fleet.answer()


async def test_nothing_is_retried_after_the_first_content() -> None:
    fleet = Fleet(a=[FakeResponse([HI, ConnectionLost("reset")])], b=[ok()])
    first, last = (await fleet.answer()).splitlines()
    assert json.loads(first)["message"]["content"] == "hi"
    assert "the worker was lost" in json.loads(last)["error"]
    assert fleet.upstream.workers == ["a"]
    assert fleet.record.outcome == "lost"


async def test_a_stream_lost_before_its_first_content_is_retried() -> None:
    fleet = Fleet(a=[FakeResponse([ROLE, ConnectionLost("reset")])], b=[ok()])
    assert b'"hi"' in await fleet.answer()
    assert fleet.upstream.workers == ["a", "b"]


async def test_held_output_of_a_lost_worker_is_not_written_before_anothers_answer() -> None:
    """A role and an unfinished event are held, and so is whatever the translator made of them."""
    fleet = Fleet(a=[FakeResponse([ROLE, HI[:-5], ConnectionLost("reset")])], b=[ok()])
    answer = await fleet.answer()
    lines = [json.loads(line) for line in answer.splitlines()]
    assert [line["message"]["content"] for line in lines] == ["hi", ""]
    assert [line["done"] for line in lines] == [False, True]


async def test_a_response_that_is_not_streamed_is_retried_until_its_end() -> None:
    fleet = Fleet(a=[FakeResponse([HI, ConnectionLost("reset")])], b=[ok()])
    assert json.loads(await fleet.answer(stream=False))["message"]["content"] == "hi"
    assert fleet.upstream.workers == ["a", "b"]


@pytest.mark.parametrize(("code", "workers"), [(400, ["a"]), (500, ["a", "b"]), (503, ["a", "b", "c"])])
async def test_an_error_event_before_the_first_content_is_retried_by_its_own_code(
    code: int, workers: list[str]
) -> None:
    def failing() -> FakeResponse:
        return FakeResponse([ROLE, event(error={"message": "no", "code": code})])

    fleet = Fleet(a=[failing()], b=[failing()], c=[failing()], d=[ok()])
    assert (await fleet.refusal()).status == code
    assert fleet.upstream.workers == workers


async def test_a_stream_that_ends_before_its_first_content_is_retried() -> None:
    fleet = Fleet(a=[FakeResponse([ROLE])], b=[ok()])
    assert b'"hi"' in await fleet.answer()


@pytest.mark.parametrize(
    "stuck",
    [
        pytest.param({"a": [silent()]}, id="before the head"),
        pytest.param({"a": [FakeResponse([Hang()])]}, id="before the first content"),
        pytest.param({"a": [FakeResponse([Hang()], 500)]}, id="in an error body"),
        pytest.param({"a": [refused()], "b": [silent()]}, id="in a retry"),
    ],
)
async def test_cancelling_a_waiting_request_leaks_nothing(stuck: dict[str, Any]) -> None:
    fleet = Fleet(**stuck)
    waiting = asyncio.create_task(fleet.forward())
    await auntil(lambda: len(fleet.upstream.sent) == len(stuck))
    assert fleet.pool.in_flight == 1
    assert repr(fleet.forwarder) == "<Forwarder 0 waiting, 1 in flight>"
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    fleet.assert_idle()
    assert worker_in(fleet.pool, list(stuck)[-1]).is_available(1060)


async def test_cancelling_between_two_attempts_leaks_nothing() -> None:
    fleet = Fleet(delay=3600, a=[refused()], b=[refused()], c=[ok()])
    waiting = asyncio.create_task(fleet.forward())
    await auntil(lambda: len(fleet.upstream.sent) == 2 and fleet.pool.in_flight == 0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    fleet.assert_idle()
    assert fleet.upstream.workers == ["a", "b"]


@pytest.mark.parametrize(
    "stuck",
    [silent(), FakeResponse([Hang()]), FakeResponse([ROLE, Hang()]), FakeResponse([Hang()], 500)],
    ids=["no head", "no body", "no content", "no end of an error"],
)
async def test_a_worker_without_content_for_300_s_is_replaced_by_another(stuck: FakeResponse) -> None:
    fleet = Fleet(a=[stuck], b=[ok()])
    answering = asyncio.create_task(fleet.answer())
    await auntil(lambda: bool(fleet.upstream.exchanges) and fleet.upstream.exchanges[0].played == len(stuck.steps))
    now = fleet.upstream.exchanges[0].last_heard
    fleet.stalls.check(now + 299)
    await asyncio.sleep(0)
    assert fleet.upstream.workers == ["a"]
    fleet.stalls.check(now + 301)
    assert b'"hi"' in await answering
    assert fleet.upstream.workers == ["a", "b"]
    assert fleet.record.failures == ["Lost"]


async def test_a_stall_without_another_worker_is_a_504() -> None:
    fleet = Fleet(a=[silent()])
    refusing = asyncio.create_task(fleet.refusal())
    await auntil(lambda: bool(fleet.upstream.sent))
    fleet.stalls.check(asyncio.get_running_loop().time() + 301)
    error = await refusing
    assert (error.status, error.text) == (504, "the worker did not begin to answer within 300 s")


async def test_a_model_without_available_workers_is_a_503_with_their_states() -> None:
    fleet = Fleet(a=[], b=[])
    for worker in "ab":
        fleet.pool.report(worker, DRAINING)
    error = await fleet.refusal()
    assert isinstance(error, NoWorker)
    assert (error.status, error.text) == (503, "no worker is available for model 'm': its workers are out: 2 draining")
    assert fleet.record.attempts == 0


async def test_requests_beyond_max_waiting_are_refused_before_any_attempt() -> None:
    fleet = Fleet(max_waiting=1, a=[])
    while (worker := worker_in(fleet.pool, "a")).has_room:
        fleet.pool.lease(worker)
    waiting = asyncio.create_task(fleet.forward())
    await auntil(lambda: fleet.admission.waiting == 1)
    with pytest.raises(ServerBusy):
        await fleet.forward()
    assert fleet.upstream.sent == []
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert fleet.admission.waiting == 0


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


async def test_an_adapted_request_does_not_count_as_a_retry() -> None:
    def adapt(_request: object, _model: object, _defaults: object, *refusals: AttemptFailed) -> UpstreamRequest | None:
        return UpstreamRequest("/v1/chat/completions", b"adapted") if len(refusals) == 1 else None

    fleet = Fleet(a=[status(400, "too many stop strings"), ok()], b=[])
    assert await fleet.answer(operation=dataclasses.replace(CHAT, adapt=adapt))
    assert [(worker, body == b"adapted") for worker, _, body in fleet.upstream.sent] == [("a", False), ("a", True)]
    assert (fleet.record.attempts, fleet.record.failures) == (1, [])


async def test_a_fault_that_nothing_adapts_is_retried_on_another_worker() -> None:
    fleet = Fleet(a=[status(500, "Internal Server Error")], b=[ok()])
    assert await fleet.answer(operation=dataclasses.replace(CHAT, adapt=lambda *_: None))
    assert fleet.upstream.workers == ["a", "b"]


async def test_a_repeated_refusal_ends_adaptation_with_the_first_text() -> None:
    def adapt(*_: object) -> UpstreamRequest:
        return UpstreamRequest("/v1/chat/completions", b"adapted")

    fleet = Fleet(a=[status(400, "too long"), status(400, "too long"), ok()], b=[ok()])
    error = await fleet.refusal(operation=dataclasses.replace(CHAT, adapt=adapt))
    assert (error.status, error.text) == (400, "too long")
    assert fleet.upstream.workers == ["a", "a"]


async def test_a_bug_in_prepare_leaks_nothing_and_leaves_the_worker_healthy() -> None:
    def prepare(*_: Any) -> UpstreamRequest:
        raise RuntimeError("a bug")

    fleet = Fleet(a=[], b=[])
    with pytest.raises(RuntimeError):
        await fleet.forward(operation=dataclasses.replace(CHAT, prepare=prepare))
    fleet.assert_idle()
    assert worker_in(fleet.pool, "a").is_available(1060)


async def test_debug_level_logs_each_choice_with_reasons_and_each_outcome(caplog: pytest.LogCaptureFixture) -> None:
    fleet = Fleet(a=[refused()], b=[ok()], c=[])
    fleet.pool.report("c", DRAINING)
    with caplog.at_level(logging.DEBUG, "vllama_pool.router.proxy"):
        await fleet.answer()
    assert [message.partition("; ")[0] for message in caplog.messages] == [
        "request id: chose a for m",
        "request id: a failed: Lost 502",
        "request id: chose b for m",
        "request id: b answers",
    ]
    assert "c: draining" in caplog.messages[0]
    assert "a: tried already" in caplog.messages[2]


async def test_debug_level_does_not_log_the_text_of_vllms_errors(caplog: pytest.LogCaptureFixture) -> None:
    fleet = Fleet(a=[status(400, "bad input: a secret prompt")])
    with caplog.at_level(logging.DEBUG, "vllama_pool.router.proxy"):
        await fleet.refusal()
    assert "request id: a failed: Refused 400" in caplog.messages
    assert "secret" not in caplog.text


async def test_info_level_logs_no_choices(caplog: pytest.LogCaptureFixture) -> None:
    fleet = Fleet(a=[refused()], b=[ok()])
    with caplog.at_level(logging.INFO, "vllama_pool.router.proxy"):
        await fleet.answer()
    assert caplog.messages == []


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
