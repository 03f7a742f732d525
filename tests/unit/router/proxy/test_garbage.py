"""Nothing of a request is left to Python's cycle collector, which looks seldom: what it is left grows the memory."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from tests.support.balance import Clock, found, pool_of, worker_in
from tests.support.forwarding import CHAT, HI, SERVED, Fleet, StepClock, ok, refused, shared_by_requests, status
from tests.support.garbage import watch_garbage
from tests.support.lost_answers import CUT, LOST, Guard, fleet_of, rest
from tests.support.tables import routing_table
from tests.support.until import auntil
from tests.support.upstream import FakeClient, FakeResponse, Hang
from vllama_pool.router.admission.admission import RequestLimits
from vllama_pool.router.admission.grant import Grant
from vllama_pool.router.balance.lease import ABANDONED, Lease
from vllama_pool.router.balance.worker import Worker
from vllama_pool.router.errors import ClientError
from vllama_pool.router.poison.evidence import CrashId
from vllama_pool.router.poison.trials import Trial
from vllama_pool.router.proxy.forward_request import ForwardRequest
from vllama_pool.router.proxy.in_flight import ClientGone
from vllama_pool.router.proxy.shadow import ShadowCopy, Shadows
from vllama_pool.router.proxy.stalls import StallWatch
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.telemetry.decisions import Decision
from vllama_pool.router.telemetry.request_record import RequestRecord
from vllama_pool.router.telemetry.shadow_metrics import ShadowMetrics

HANGS = FakeResponse([HI, Hang()])


class TrialGuard(Guard):
    """A guard of an engine that died by itself: the request is tried alone on the next one."""

    async def met_crash(self, worker: Worker, *_: Any) -> CrashId:
        return CrashId(worker.id, 1, 1)

    async def begin_trial(self, *_: Any) -> Trial:
        return Trial(lambda trial: None)


ENDINGS: dict[str, Callable[[], Fleet]] = {
    "complete": lambda: Fleet(a=[ok()]),
    "refused by the worker": lambda: Fleet(a=[status(400)]),
    "no worker can be reached": lambda: Fleet(a=[refused()], b=[refused()]),
    "busy workers": lambda: Fleet(a=[status(503), status(503)]),
    "lost before the answer": lambda: Fleet(a=[LOST], b=[ok()]),
    "lost in mid-stream": lambda: Fleet(a=[FakeResponse([HI, LOST])]),
    "continued by another worker": lambda: fleet_of(a=[CUT], b=rest()),
    "continued by a third worker": lambda: fleet_of(Guard("a"), a=[CUT], b=rest(LOST), c=rest()),
    "lost in mid-stream twice": lambda: fleet_of(Guard("a", "b"), a=[CUT], b=rest(LOST)),
    "lost in mid-stream, and nobody continues": lambda: fleet_of(a=[CUT], b=[refused()]),
    "answered by a fallback": lambda: full(with_fallback(b=[ok()]), "a"),
    "no place for a fallback either": lambda: without_places(with_fallback(b=[]), "m", "other"),
    "tried alone after a crash": lambda: Fleet(poison=TrialGuard(), a=[LOST], b=[ok()]),
    "no place in the queue of workers": lambda: full(Fleet(max_waiting=0, a=[]), "a"),
    "the wait for a worker is over": lambda: full(Fleet(limits=RequestLimits(wait=0.0), a=[]), "a"),
}


def with_fallback(**scripts: Any) -> Fleet:
    """Worker a has the model, worker b its fallback."""
    table = routing_table(models={"m": {"fallback": ["other"]}})
    other = msgspec.structs.replace(SERVED, name="other")
    return Fleet(table=table, limits=RequestLimits(wait=0.0), models={"b": other}, a=[], **scripts)


def without_places(fleet: Fleet, *models: str) -> Fleet:
    """Take the only place of each model."""
    fleet.admission.set_limits(dict.fromkeys(models, RequestLimits(concurrency=1, queue=0)))
    for model in models:
        queue = fleet.admission.queue(model)
        assert queue is not None
        queue.enter()
    return fleet


def full(fleet: Fleet, worker: str) -> Fleet:
    fill(fleet, worker)
    return fleet


def fill(fleet: Fleet, name: str) -> list[Lease]:
    worker, leases = worker_in(fleet.pool, name), []
    while worker.has_room:
        leases.append(fleet.pool.lease(worker))
    return leases


@pytest.mark.parametrize("make", ENDINGS.values(), ids=ENDINGS.keys())
async def test_a_request_that_ends_leaves_no_garbage(make: Callable[[], Fleet]) -> None:
    fleet = make()
    taken = [worker.in_flight for worker in fleet.pool]
    with watch_garbage() as garbage:
        with suppress(ClientError):
            await fleet.forward()
        del fleet.in_flight
    assert garbage == []
    assert [worker.in_flight for worker in fleet.pool] == taken


@pytest.mark.parametrize("ending", ["its turn comes", "its client leaves"])
async def test_a_request_that_waits_for_a_worker_leaves_no_garbage(ending: str) -> None:
    fleet = Fleet(limits=RequestLimits(wait=60.0), a=[ok()])
    leases = fill(fleet, "a")
    with watch_garbage() as garbage:
        task = asyncio.create_task(fleet.forward())
        await auntil(lambda: fleet.admission.waiting == 1)
        if ending == "its turn comes":
            leases.pop().release(ABANDONED)
        else:
            fleet.in_flight.client_gone()
        with suppress(ClientGone):
            await task
        del fleet.in_flight, task
    assert garbage == []


@pytest.mark.parametrize(
    "script", [[ok()], [status(500)], [HANGS]], ids=["complete", "failed", "stopped with its request"]
)
async def test_a_copy_for_a_shadow_target_leaves_no_garbage(script: Sequence[Any]) -> None:
    clock = Clock()
    pool = pool_of(clock, found("a", SERVED))
    client = FakeClient({"a": script})
    upstream = shared_by_requests(client, pool, StallWatch(), StepClock(clock)).upstream
    routes = ModelRoutes(routing_table(models={"m": {"shadow": {"model": "m", "share": 1.0}}}), random.Random(1))
    shadows = Shadows(upstream, lambda: routes, random.Random(1), ShadowMetrics(), 1)
    decoded = CHAT.decode(json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode())
    resolution = routes.resolve("m", pool)

    async def copy() -> None:
        decision = Decision(RequestRecord(id="id"), 0, 10)
        begun: ShadowCopy | None = shadows.begin(ForwardRequest(CHAT, decoded, resolution, decision, Grant()), "id")
        assert begun is not None
        if script == [HANGS]:
            await auntil(lambda: bool(client.exchanges) and client.exchanges[-1].played >= 1)
            begun.stop()
        await auntil(lambda: repr(shadows) == "<Shadows 0 copies in progress>")

    with watch_garbage() as garbage:
        await copy()
    assert garbage == []
