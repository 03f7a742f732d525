"""An answer that loses its worker in mid-stream, and the worker that continues it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.lost_answers import (
    CUT,
    DONE,
    FIRST,
    LOST,
    REST,
    chat,
    completion,
    detokenized,
    errors_of,
    fleet_of,
    rest,
    text_of,
    usage,
)
from tests.support.protocol import objects
from tests.support.until import auntil
from tests.support.upstream import FakeResponse, Hang
from vllama_pool.router.errors import STOPPING


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


async def test_a_second_worker_lost_in_mid_stream_ends_the_answer_with_one_error() -> None:
    fleet = fleet_of(a=[CUT], b=rest(completion([12]), LOST), c=rest())
    body = await fleet.answer()
    assert text_of(body) == "one two three"
    assert len(errors_of(body)) == 1
    assert "error" in objects(body)[-1]
    assert "c" not in fleet.upstream.workers


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
@pytest.mark.parametrize("stops", [False, True], ids=["time", "router"])
async def test_an_answer_that_waits_for_its_second_worker_ends_with_one_error_when_its_time_or_router_ends(
    second: list[FakeResponse], stops: bool
) -> None:
    fleet = fleet_of(a=[FakeResponse([FIRST, chat([10]), LOST])], b=[*second, FakeResponse([Hang()], 0)])
    answering = asyncio.create_task(fleet.answer())
    await auntil(lambda: len(fleet.upstream.exchanges) == 2 + len(second))
    if stops:
        answering.cancel(msg=STOPPING)
    else:
        fleet.in_flight.expire()
    assert len(errors_of(await answering)) == 1
    assert (fleet.record.outcome, fleet.record.resumed) == ("out of time", 0)
