"""The next attempt of a request after a failure: on another worker, once more on the same one, or of another model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.support.balance import DRAINING, worker_in
from tests.support.forwarding import HI, ROLE, Fleet, ok, refused, silent, status
from tests.support.lost_answers import Guard
from tests.support.protocol import event
from tests.support.tables import routing_table
from tests.support.until import auntil
from tests.support.upstream import FakeResponse, Hang
from vllama_pool.router.admission.admission import RequestLimits
from vllama_pool.router.balance.worker import Worker
from vllama_pool.router.errors import NoWorker, ServerBusy
from vllama_pool.router.poison.apart import trial_workers
from vllama_pool.router.poison.evidence import CrashId
from vllama_pool.router.poison.trials import Trial
from vllama_pool.router.upstream.interface import ConnectionLost
from vllama_pool.workers.registry.record import ModelInfo

HANGS = FakeResponse([Hang()])


async def test_a_refused_connection_moves_the_request_to_the_next_worker() -> None:
    fleet = Fleet(a=[refused()], b=[ok()])
    assert b'"hi"' in await fleet.answer()
    assert fleet.upstream.workers == ["a", "b"]
    assert (fleet.record.attempts, fleet.record.worker) == (2, "b")
    assert fleet.record.failures == ["Lost"]
    assert worker_in(fleet.pool, "a").is_suspect(1060)


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


async def test_after_a_429_of_the_last_worker_a_request_waits_for_it_again() -> None:
    fleet = Fleet(a=[status(429), ok()])
    await fleet.answer()
    assert fleet.upstream.workers == ["a", "a"]


async def test_a_request_after_a_429_waits_until_the_worker_has_room() -> None:
    fleet = Fleet(a=[HANGS, status(429), ok()])
    first = asyncio.create_task(fleet.forward())
    await auntil(lambda: len(fleet.upstream.sent) == 1)
    first_in_flight = fleet.in_flight
    second = asyncio.create_task(fleet.forward())
    await auntil(lambda: fleet.admission.waiting == 1)
    assert len(fleet.upstream.sent) == 2
    first_in_flight.client_gone()
    await asyncio.wait([first])
    await second
    assert fleet.upstream.workers == ["a", "a", "a"]
    fleet.assert_idle()


async def test_a_worker_that_always_answers_429_is_tried_as_often_as_the_entry_allows() -> None:
    fleet = Fleet(a=[status(429, "at capacity")] * 3)
    error = await fleet.refusal()
    assert (error.status, error.text, fleet.record.attempts) == (429, "at capacity", 3)


async def test_after_a_429_the_longest_wait_ends_in_ollamas_text() -> None:
    fleet = Fleet(limits=RequestLimits(wait=0.05), a=[HANGS, status(429)])
    first = asyncio.create_task(fleet.forward())
    await auntil(lambda: len(fleet.upstream.sent) == 1)
    first_in_flight = fleet.in_flight
    with pytest.raises(ServerBusy):
        await fleet.forward()
    first_in_flight.client_gone()
    await asyncio.wait([first])
    fleet.assert_idle()


async def test_after_a_429_a_fallback_for_overloaded_comes_before_the_queue() -> None:
    table = routing_table(models={"m": {"fallback": {"overloaded": ["x"]}}})
    fleet = Fleet(table=table, models={"b": ModelInfo(name="x", context_length=2048)}, a=[status(429)], b=[ok()])
    await fleet.answer()
    assert fleet.upstream.workers == ["a", "b"]


async def test_a_model_that_starts_from_zero_keeps_requests_whose_worker_is_lost_before_the_answer() -> None:
    table = routing_table(models={"m": {"scale": {"from_zero": True}}})
    fleet = Fleet(table=table, limits=RequestLimits(start=60.0), a=[refused(), ok()])
    task = asyncio.create_task(fleet.forward())
    await auntil(lambda: fleet.admission.waiting == 1)
    assert fleet.upstream.workers == ["a"]
    fleet.pool.mark_up("a")
    await task
    assert fleet.record.outcome == "complete"
    fleet.assert_idle()


class CrashGuard(Guard):
    """Finds that worker a crashed. Gives a trial on each worker but those that are gone by then."""

    def __init__(self, *gone: str) -> None:
        super().__init__("a")
        self.gone = gone
        self.tried: list[str] = []
        self.at_once = 0
        """The most trials at one time."""
        self._trials: list[Trial] = []

    @property
    def trial(self) -> Trial:
        return self._trials[-1]

    def begun(self) -> bool:
        return bool(self._trials) and self.trial.begun()

    async def met_crash(
        self, worker: Worker, sent: float, operation: str, request: Any, size: int, met: Sequence[CrashId]
    ) -> CrashId | None:
        return CrashId(worker.id, 1, 1) if worker.id == "a" else None

    async def begin_trial(
        self, worker: Worker, operation: str, request: Any, size: int, acquitted: Callable[[], None]
    ) -> Trial | None:
        self.tried.append(worker.id)
        if worker.id in self.gone:
            return None
        self._trials.append(Trial(lambda trial: None))
        self.at_once = max(self.at_once, sum(not trial.ended for trial in self._trials))
        return self.trial


LOST_UNANSWERED = FakeResponse([ROLE, ConnectionLost("reset")])


async def test_a_request_of_a_crash_is_sent_on_trial_until_its_answer_ends() -> None:
    guard = CrashGuard()
    fleet = Fleet(poison=guard, a=[LOST_UNANSWERED], b=[FakeResponse([HI, Hang()])])
    task = asyncio.create_task(fleet.forward())
    await auntil(guard.begun)
    assert not guard.trial.ended
    fleet.in_flight.client_gone()
    await task
    assert guard.tried == ["b"]
    assert guard.trial.ended
    fleet.assert_idle()


async def test_a_trial_begins_to_be_answered_with_the_first_content() -> None:
    guard = CrashGuard()
    fleet = Fleet(poison=guard, a=[LOST_UNANSWERED], b=[FakeResponse([ROLE, Hang()])])
    task = asyncio.create_task(fleet.forward())
    await auntil(lambda: len(fleet.upstream.exchanges) == 2 and fleet.upstream.exchanges[1].played == 2)
    assert not guard.trial.begun()
    task.cancel()
    await asyncio.wait([task])
    assert guard.trial.ended
    fleet.assert_idle()


async def test_a_trial_ends_with_its_attempt_before_the_next_one_begins() -> None:
    guard = CrashGuard()
    fleet = Fleet(poison=guard, a=[LOST_UNANSWERED], b=[status(503)], c=[ok()])
    await fleet.answer()
    assert guard.tried == ["b", "c"]
    assert guard.at_once == 1


async def test_a_request_of_a_crash_gets_another_worker_if_that_of_its_trial_is_gone() -> None:
    (apart,) = trial_workers("a", {"b", "c"})
    (other,) = {"b", "c"} - {apart}
    guard = CrashGuard(apart)
    fleet = Fleet(poison=guard, a=[LOST_UNANSWERED], b=[ok()], c=[ok()])
    await fleet.answer()
    assert guard.tried == [apart, other]
    assert fleet.upstream.workers == ["a", other]
