"""An answer that loses its worker in mid-stream, and the worker that continues it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from tests.support.forwarding import SERVED, Fleet
from tests.support.protocol import objects
from tests.support.until import auntil
from tests.support.upstream import FakeResponse, Hang
from vllama_pool.router.balance.worker import Worker
from vllama_pool.router.poison.byte_budget import ByteBudget
from vllama_pool.router.poison.evidence import CrashId
from vllama_pool.router.upstream.interface import ConnectFailed, ConnectionLost

SAME = msgspec.structs.replace(SERVED, digest="a" * 64)
LOST = ConnectionLost("reset")
PROMPT = [1, 2]
TEXTS = {10: "one", 11: " two", 12: " three", 13: " four"}
DONE = b"data: [DONE]\n\n"


def event(**fields: Any) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode({"id": "chatcmpl-1", "model": "m", **fields})


def chat(ids: list[int], finish: str | None = None) -> bytes:
    text = "".join(TEXTS[each] for each in ids)
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish, "token_ids": ids}])


def completion(ids: list[int], finish: str | None = None) -> bytes:
    text = "".join(TEXTS[each] for each in ids)
    return event(choices=[{"index": 0, "text": text, "finish_reason": finish, "token_ids": ids}])


def usage(prompt: int, tokens: int) -> bytes:
    return event(choices=[], usage={"prompt_tokens": prompt, "completion_tokens": tokens})


FIRST = event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}], prompt_token_ids=PROMPT)
CUT = FakeResponse([FIRST, chat([10]), chat([11]), LOST])
"""An answer whose worker is lost after two tokens."""
ONE_TOKEN = FakeResponse([FIRST, chat([10], "stop"), usage(4, 1), DONE])
REST = [completion([12]), completion([13], "stop"), usage(4, 2), DONE]


def detokenized(text: str) -> FakeResponse:
    return FakeResponse([json.dumps({"prompt": text}).encode()])


def rest(*steps: Any) -> list[FakeResponse]:
    """Return the responses of a worker that continues: texts of the prompt's end and of all tokens, and the rest."""
    return [detokenized("?"), detokenized("?one two"), FakeResponse(steps or REST)]


class Guard:
    """A poison guard that knows which engines died by themselves."""

    def __init__(self, *crashed: str) -> None:
        self.refused: dict[str, Any] = {}
        self.suspects_begun = True
        self.kept = ByteBudget(1 << 20)
        self._crashed = crashed
        self.asked: list[str] = []
        self.lost: list[str] = []
        """Workers that were lost after the answer had begun."""
        self.answered = 0
        """Requests that one engine answered."""

    async def crash_of(self, worker: Worker, sent: float, *, met: bool) -> CrashId | None:
        self.asked.append(worker.id)
        return CrashId(worker.id, 1, 1) if worker.id in self._crashed else None

    def lost_begun(self, worker: Worker, sent: float, operation: str, request: Any, size: int) -> None:
        assert (operation, request is not None) == ("chat", True)
        self.lost.append(worker.id)

    def completed(self, operation: str, request: Any, size: int) -> None:
        assert (operation, request is not None) == ("chat", True)
        self.answered += 1

    async def may_meet_another(self, crashes: Sequence[CrashId], operation: str, request: Any, size: int) -> bool:
        return len(crashes) < 2


def fleet_of(poison: Any = None, lagging: bool = False, **scripts: Any) -> Fleet:
    return Fleet(models=dict.fromkeys(scripts, SAME), poison=poison, lagging=lagging, **scripts)


def text_of(body: bytes) -> str:
    return "".join(line["message"]["content"] for line in objects(body) if "message" in line)


def errors_of(body: bytes) -> list[Any]:
    return [line["error"] for line in objects(body) if "error" in line]


async def test_another_worker_continues_with_the_tokens_so_far() -> None:
    fleet = fleet_of(a=[CUT], b=rest())
    body = await fleet.answer()
    assert text_of(body) == "one two three four"
    last = objects(body)[-1]
    assert (last["done"], last["prompt_eval_count"], last["eval_count"]) == (True, 2, 4)
    worker, path, sent = fleet.upstream.sent[-1]
    assert (worker, path, json.loads(sent)["prompt"]) == ("b", "/v1/completions", [1, 2, 10, 11])
    assert (fleet.record.outcome, fleet.record.resumed) == ("complete", 1)


@pytest.mark.parametrize("moment", ["detokenize", "prefill"])
async def test_a_client_that_leaves_between_the_two_workers_ends_the_request(moment: str) -> None:
    script = rest(Hang())
    if moment == "detokenize":
        script[1] = FakeResponse([Hang()], 0)
    fleet = fleet_of(a=[CUT], b=script)
    asking = asyncio.create_task(fleet.forward())
    count = 3 if moment == "detokenize" else 4
    await auntil(lambda: len(fleet.upstream.exchanges) == count and fleet.upstream.exchanges[-1].played <= 1)
    fleet.in_flight.client_gone()
    assert await asking is None
    assert fleet.record.outcome == "client gone"
    assert not errors_of(fleet.writer.body)
    fleet.assert_idle()
    assert fleet.upstream.workers == ["a", *"b" * (count - 1)]


async def test_a_second_worker_that_sends_nothing_is_replaced_by_a_third() -> None:
    fleet = fleet_of(Guard("a"), a=[CUT], b=rest(LOST), c=rest())
    assert text_of(await fleet.answer()) == "one two three four"


async def test_a_second_worker_that_cannot_be_reached_is_replaced_by_a_third() -> None:
    fleet = fleet_of(Guard("a"), a=[CUT], b=[ConnectFailed("refused")], c=rest())
    assert text_of(await fleet.answer()) == "one two three four"


async def test_an_answer_whose_second_engine_crashes_too_never_reaches_a_third() -> None:
    fleet = fleet_of(Guard("a", "b"), a=[CUT], b=rest(LOST), c=rest())
    body = await fleet.answer()
    assert text_of(body) == "one two"
    assert len(errors_of(body)) == 1
    assert "c" not in fleet.upstream.workers
    assert fleet.record.outcome == "lost"


@pytest.mark.parametrize(("size", "left", "learns"), [(1 << 20, 0, 1), ((1 << 20) + 1, 1 << 20, 0), (100, 1 << 20, 1)])
async def test_a_large_request_is_kept_for_the_guard_within_a_limit(size: int, left: int, learns: int) -> None:
    guard = Guard()
    fleet = fleet_of(guard, a=[ONE_TOKEN])
    in_flight = fleet.begin(size=size)
    await in_flight.run()
    assert guard.kept.take(left)
    assert not guard.kept.take(1)
    guard.kept.give_back(left)
    in_flight.close()
    in_flight.close()
    assert guard.answered == learns
    assert guard.kept.take(1 << 20), "all is given back"
    assert not guard.kept.take(1)


async def test_the_guard_learns_of_each_worker_lost_and_not_of_an_answer_that_others_completed() -> None:
    guard = Guard()
    await fleet_of(guard, a=[CUT], b=rest(LOST), c=rest()).answer()
    assert (guard.lost, guard.answered) == (["a", "b"], 0)


async def test_the_guard_learns_of_a_lost_answer_that_nobody_continues_once() -> None:
    guard = Guard()
    fleet = Fleet(models={"a": SERVED}, poison=guard, a=[CUT])  # the model's files are unknown
    assert len(errors_of(await fleet.answer())) == 1
    assert (guard.lost, guard.answered) == (["a"], 0)


async def test_the_guard_learns_of_an_answer_by_one_engine() -> None:
    guard = Guard()
    await fleet_of(guard, a=[ONE_TOKEN]).answer()
    assert (guard.lost, guard.answered) == ([], 1)


async def test_a_second_worker_lost_in_mid_stream_ends_the_answer_with_one_error() -> None:
    fleet = fleet_of(a=[CUT], b=rest(completion([12]), LOST), c=rest())
    body = await fleet.answer()
    assert text_of(body) == "one two three"
    assert len(errors_of(body)) == 1
    assert "error" in objects(body)[-1]
    assert "c" not in fleet.upstream.workers


async def test_no_more_than_three_workers_are_asked() -> None:
    fleet = fleet_of(a=[CUT], b=rest(LOST), c=rest(LOST), d=rest())
    body = await fleet.answer()
    assert len(errors_of(body)) == 1
    assert "d" not in fleet.upstream.workers


async def test_a_slow_client_gets_the_whole_answer_across_the_seam() -> None:
    """Its worker is lost while it lags, and it lags behind the second one too."""
    second = [detokenized("?"), detokenized("?one"), FakeResponse([completion([11]), *REST[:2], usage(3, 3), DONE])]
    fleet = fleet_of(lagging=True, a=[FakeResponse([FIRST, chat([10]), Hang()])], b=second)
    exchanges = fleet.upstream.exchanges
    answering = asyncio.create_task(fleet.answer())
    await auntil(lambda: exchanges and exchanges[0].paused)
    exchanges[0].fail(LOST)
    await auntil(lambda: len(exchanges) == 4 and exchanges[3].paused)
    for _ in range(10):
        await asyncio.sleep(0)
    assert exchanges[3].played == 1, "nothing is read while the client lags"
    fleet.writer.catch_up()
    body = await answering
    assert text_of(body) == "one two three four"
    assert objects(body)[-1]["eval_count"] == 4
    assert fleet.record.outcome == "complete"


async def test_a_client_that_is_dropped_before_it_has_read_the_error_ends_as_stalled() -> None:
    fleet = fleet_of(lagging=True, a=[FakeResponse([FIRST, chat([10]), Hang()])])
    answering = asyncio.create_task(fleet.answer())
    await auntil(lambda: fleet.upstream.exchanges and fleet.upstream.exchanges[0].paused)
    fleet.upstream.exchanges[0].fail(LOST)
    await auntil(lambda: fleet.writer.ended)
    fleet.writer.drop()
    assert len(errors_of(await answering)) == 1
    assert fleet.record.outcome == "client stalled"


WHOLE_REST = b"".join((completion([11]), *REST[:2], usage(3, 3), DONE))
ENDS: dict[str, dict[str, Any]] = {
    "lost": {},
    "complete": {"b": [detokenized("?"), detokenized("?one"), FakeResponse([WHOLE_REST])]},
}
"""Responses of further workers, by the outcome."""


@pytest.mark.parametrize("outcome", ENDS)
async def test_an_end_that_a_slow_client_still_reads_stays_when_the_time_is_over(outcome: str) -> None:
    fleet = fleet_of(lagging=True, a=[FakeResponse([FIRST, chat([10]), Hang()])], **ENDS[outcome])
    answering = asyncio.create_task(fleet.answer())
    await auntil(lambda: fleet.upstream.exchanges and fleet.upstream.exchanges[0].paused)
    fleet.upstream.exchanges[0].fail(LOST)
    await auntil(lambda: fleet.writer.ended)
    fleet.in_flight.expire()
    fleet.writer.catch_up()
    assert len(errors_of(await answering)) == (outcome == "lost")
    assert fleet.record.outcome == outcome


@pytest.mark.parametrize("second", [[], [detokenized("?"), detokenized("?one")]], ids=["tokens", "the rest"])
async def test_an_answer_that_waits_for_its_second_worker_ends_with_one_error_when_the_time_is_over(
    second: list[FakeResponse],
) -> None:
    fleet = fleet_of(a=[FakeResponse([FIRST, chat([10]), LOST])], b=[*second, FakeResponse([Hang()], 0)])
    answering = asyncio.create_task(fleet.answer())
    await auntil(lambda: len(fleet.upstream.exchanges) == 2 + len(second))
    fleet.in_flight.expire()
    assert len(errors_of(await answering)) == 1
    assert (fleet.record.outcome, fleet.record.resumed) == ("out of time", 0)
