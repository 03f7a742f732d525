"""Moves of one request to other models: their order, their bounds, the client's error, and what is released."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import msgspec
import pytest

from tests.support.balance import DRAINING, worker_in
from tests.support.forwarding import CHAT, HI, SERVED, Fleet, ok, refused, silent, status
from tests.support.tables import routing_table
from tests.support.until import auntil
from tests.support.upstream import FakeResponse
from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.admission.admission import RequestLimits
from vllama_pool.router.balance.pool import Discovered
from vllama_pool.router.errors import (
    AttemptFailed,
    BadRequest,
    Busy,
    ClientError,
    ContextTooLong,
    Faulty,
    Lost,
    ModelGone,
    Refused,
    Unavailable,
)
from vllama_pool.router.proxy.fallback import MAX_ATTEMPTS, MAX_FALLBACKS, first_able, reason_of
from vllama_pool.router.proxy.in_flight import ClientGone
from vllama_pool.router.upstream.interface import ConnectionLost
from vllama_pool.workers.registry.record import ModelInfo


def model(name: str, context: int = 2048) -> ModelInfo:
    return msgspec.structs.replace(SERVED, name=name, context_length=context)


def chain(entry: dict[str, Any] | None = None, *, others: str = "xyz", **scripts: Any) -> Fleet:
    """A fleet whose model "m" is served by the workers a, b, c, and the models x, y, z by workers of their names."""
    models = {"m": {"serve": "m", **(entry or {})}, **{other: {} for other in others}}
    served = {name: model(name) for name in others}
    return Fleet(table=routing_table(models=models), models=served, **scripts)


def moves(fleet: Fleet) -> list[tuple[str, str, int]]:
    return [(move.reason, move.target, move.attempts) for move in fleet.record.fallbacks]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (Lost("lost"), "error"),
        (Unavailable("out"), "error"),
        (Faulty("fault"), "error"),
        (Busy("busy"), "overloaded"),
        (ModelGone("gone"), "no_worker"),
        (ContextTooLong("long"), "context"),
        (Refused("bad"), None),
    ],
)
def test_a_last_failure_tells_the_reason(failure: AttemptFailed, reason: str | None) -> None:
    assert reason_of(failure) == reason


@pytest.mark.parametrize("stream", [False, True])
async def test_the_next_model_answers_after_all_attempts_of_the_first_one(stream: bool) -> None:
    fleet = chain({"fallback": ["x"]}, a=[status(502)], b=[status(502)], c=[status(502)], x=[ok()])
    assert b'"hi"' in await fleet.answer(stream=stream)
    assert sorted(fleet.upstream.workers[:3]) == ["a", "b", "c"]
    assert fleet.upstream.workers[3:] == ["x"]
    assert moves(fleet) == [("error", "x", 3)]


async def test_models_are_asked_in_the_order_of_the_chain_until_one_answers() -> None:
    fleet = chain({"fallback": ["x", "y", "z"]}, a=[status(500)], x=[status(429)], y=[ok()], z=[ok()])
    await fleet.answer()
    assert fleet.upstream.workers == ["a", "x", "y"]
    assert moves(fleet) == [("error", "x", 1), ("overloaded", "y", 2)]


async def test_the_first_models_error_is_the_clients_if_no_model_answers() -> None:
    fleet = chain({"fallback": ["x", "y"]}, a=[status(429)], x=[status(500)], y=[status(400, "bad")])
    error = await fleet.refusal()
    assert (error.status, error.retry_after) == (429, 1)
    assert fleet.upstream.workers == ["a", "x", "y"]


async def test_a_request_at_fault_moves_to_no_other_model() -> None:
    fleet = chain({"fallback": ["x"]}, a=[status(400, "bad temperature")], x=[ok()])
    error = await fleet.refusal()
    assert (error.status, error.text) == (400, "bad temperature")
    assert fleet.upstream.workers == ["a"]


async def test_nothing_moves_once_the_client_has_a_byte() -> None:
    fleet = chain({"fallback": ["x"]}, a=[FakeResponse([HI, ConnectionLost("reset")])], x=[ok()])
    assert b"the worker was lost" in await fleet.answer()
    assert fleet.upstream.workers == ["a"]


async def test_a_model_that_cannot_do_the_request_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    def check(_request: object, info: ModelInfo, _defaults: Defaults) -> None:
        if info.name == "x":
            raise BadRequest('"x" does not support tools')

    fleet = chain({"fallback": ["x", "y"]}, a=[status(500)], x=[ok()], y=[ok()])
    with caplog.at_level("DEBUG", "vllama_pool.router.proxy.fallback"):
        await fleet.answer(operation=dataclasses.replace(CHAT, check=check))
    assert fleet.upstream.workers == ["a", "y"]
    assert 'request id: x cannot take over: "x" does not support tools' in caplog.messages


async def test_a_model_without_a_worker_is_skipped() -> None:
    fleet = chain({"fallback": ["x", "y"]}, a=[status(500)], x=[ok()], y=[ok()])
    fleet.pool.report("x", DRAINING)
    await fleet.answer()
    assert fleet.upstream.workers == ["a", "y"]


async def test_a_fallback_has_its_own_defaults_retries_and_time_outs_under_the_name_of_the_first() -> None:
    table = routing_table(
        models={
            "m": {"fallback": ["x"], "options": {"temperature": 0.1}},
            "x": {"options": {"temperature": 0.9}, "retries": {"attempts": 1}, "timeouts": {"connect": 9}},
        }
    )
    fleet = Fleet(
        table=table, models={"x": model("x"), "y": model("x")}, a=[status(500)], x=[status(500)], y=[status(500)]
    )
    await fleet.refusal()
    sent = [json.loads(body) for _, _, body in fleet.upstream.sent]
    assert [(body["model"], body["temperature"]) for body in sent] == [("m", 0.1), ("x", 0.9)]
    assert fleet.upstream.connect_timeouts == {0.7, 9}


async def test_a_lost_or_busy_worker_is_not_asked_for_another_of_its_models_but_a_faulty_one_is() -> None:
    def both(*scripts: Any) -> Fleet:
        fleet = chain({"fallback": ["x"]}, a=scripts, others="")
        worker = worker_in(fleet.pool, "a")
        record = msgspec.structs.replace(worker.record, models=(SERVED, model("x")))
        fleet.pool.put(Discovered(record, worker.endpoint))
        return fleet

    for failure in (refused(), status(429), status(503)):
        fleet = both(failure, ok())
        await fleet.refusal()
        assert fleet.upstream.workers == ["a"]
    fleet = both(status(500), ok())
    await fleet.answer()
    assert fleet.upstream.workers == ["a", "a"]


async def test_a_full_model_is_left_without_an_attempt_and_its_place_is_not_taken() -> None:
    limits = RequestLimits(concurrency=1, queue=0)
    fleet = chain({"fallback": {"overloaded": ["x"]}}, limits=limits, a=[silent()], x=[ok()])
    first = asyncio.create_task(fleet.forward())
    await auntil(lambda: fleet.upstream.workers == ["a"])
    second = asyncio.create_task(fleet.forward())
    await second
    assert fleet.upstream.workers == ["a", "x"]
    assert moves(fleet) == [("overloaded", "x", 0)]
    first.cancel()
    await asyncio.wait([first])
    fleet.assert_idle()


async def test_a_place_of_the_first_model_is_free_while_another_one_answers() -> None:
    limits = RequestLimits(concurrency=1, queue=0)
    fleet = chain({"fallback": {"error": ["x"]}}, limits=limits, a=[status(502), ok()], x=[silent()])
    first = asyncio.create_task(fleet.forward())
    await auntil(lambda: fleet.upstream.workers == ["a", "x"])
    await fleet.forward()
    assert fleet.upstream.workers == ["a", "x", "a"]
    first.cancel()
    await asyncio.wait([first])
    fleet.assert_idle()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_during_a_fallback_ends_the_request(stream: bool) -> None:
    fleet = chain({"fallback": ["x"]}, a=[status(502)], x=[silent()])
    forwarding = asyncio.create_task(fleet.forward(stream=stream))
    await auntil(lambda: fleet.upstream.workers == ["a", "x"])
    fleet.in_flight.client_gone()
    with pytest.raises(ClientGone):
        await forwarding
    assert worker_in(fleet.pool, "x").is_available(1060)
    fleet.assert_idle()


async def test_a_request_makes_a_bounded_number_of_attempts_and_moves() -> None:
    names = [f"n{number}" for number in range(12)]
    many = {"retries": {"attempts": 10, "budget": 1}}
    models = {"m": {"fallback": names, **many}, **dict.fromkeys(names, many)}
    workers = {f"{name}-{copy}": name for name in ("m", *names) for copy in range(5)}
    served = {worker: model(name) for worker, name in workers.items()}
    scripts: dict[str, Any] = {worker: [refused()] for worker in workers}
    fleet = Fleet(table=routing_table(models=models), models=served, **scripts)
    await fleet.refusal()
    assert len(fleet.upstream.sent) == fleet.record.attempts == MAX_ATTEMPTS

    scripts = {f"{name}-0": [status(429)] * 10 for name in ("m", *names)}
    fleet = Fleet(table=routing_table(models=models), models=served, **scripts)
    await fleet.refusal()
    assert len(fleet.record.fallbacks) == MAX_FALLBACKS
    *others, last = fleet.upstream.workers[: MAX_FALLBACKS + 1]
    assert len({*others, last}) == MAX_FALLBACKS + 1
    assert set(fleet.upstream.workers[MAX_FALLBACKS + 1 :]) == {last}, "it waits for the last model again"
    assert fleet.record.attempts == MAX_ATTEMPTS


async def test_a_model_in_several_chains_is_asked_once() -> None:
    table = routing_table(
        models={
            "m": {"fallback": {"error": ["x", "y"], "overloaded": ["y", "x"]}},
            "x": {"fallback": {"error": ["y"]}},
            "y": {},
        }
    )
    fleet = Fleet(
        table=table, models={"x": model("x"), "y": model("y")}, a=[status(500)], x=[status(429)], y=[status(500)]
    )
    assert (await fleet.refusal()).status == 500
    assert fleet.upstream.workers == ["a", "x", "y"]


async def test_failures_of_a_fallback_count_against_its_own_budget() -> None:
    fleet = chain({"fallback": ["x"], "retries": {"budget": 0}}, a=[status(502)], b=[status(502)], x=[ok()])
    await fleet.answer()
    assert fleet.record.attempts == 2, "a budget of 0 allows no retry, and a fallback is none"


@pytest.mark.parametrize("kind", [BadRequest, ClientError])
def test_a_model_without_a_worker_gets_the_first_fallback_that_can_do_the_request(kind: type[ClientError]) -> None:
    fleet = chain({"fallback": {"no_worker": ["x", "y"]}}, a=[], x=[], y=[])
    fleet.pool.report("a", DRAINING)
    assert fleet._routes is not None
    resolution = fleet._routes.resolve("m", fleet.pool)
    able = {"y"}

    def check(_request: object, info: ModelInfo, _defaults: Defaults) -> None:
        if info.name not in able:
            raise kind("cannot")

    operation = dataclasses.replace(CHAT, check=check)
    found, direct = first_able(operation, None, resolution, None)
    assert (found.model, direct) == ("y", None)
    able.clear()
    with pytest.raises(ClientError) as caught:
        first_able(operation, None, resolution, None)
    assert (caught.value.status, caught.value.text) == (
        503,
        "no worker is available for model 'm': its workers are out: 1 draining",
    )
