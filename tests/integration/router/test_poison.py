"""Requests that crash engines, over routers, agents and simulated workers as processes."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path

from tests.chaos.fleet import FLAGS, Fleet, Plan, fleet
from tests.chaos.load import Load, exchange
from tests.chaos.processes import Agent
from tests.chaos.requests import Request, Result, Route, parse
from tests.support.until import auntil

MARKER = "POISON"
WHOLE = (Route.CHAT, Route.GENERATE)
POISON = Request(f"a prompt with {MARKER} in it", 8, Route.CHAT)
DEATHS = Plan(worker_flags=(*FLAGS, "--fault", json.dumps({"kind": "die", "marker": MARKER}), "--death", "abort"))


async def restarts(running: Fleet) -> int:
    pages = await asyncio.gather(*(router.workers() for router in running.routers))
    return max(sum(int(one["restarts"]) for one in page.values()) for page in pages)


async def refusals(running: Fleet) -> list[float]:
    return [await router.metric("vllama_poison_refused_total") for router in running.routers]


async def test_a_request_that_crashes_engines_kills_two_and_is_then_refused_by_every_router(tmp_path: Path) -> None:
    async with fleet(tmp_path, DEATHS) as running:
        load = Load(lambda: running.ports, "others", clients=24, routes=WHOLE)
        async with load.running():
            await load.until_complete(24)
            poisoned = await exchange(POISON, running.ports)
            await load.until_complete(48)
            again = [await exchange(POISON, ports) for ports in (running.ports, running.ports[::-1])]
            await load.until_complete(24)
        await auntil(running.whole, 30, "the crashed workers to be back")
        killed = await restarts(running)
        pages = [(await router.get("/admin/workers")).json() for router in running.routers]
        counted = await refusals(running)

    answer = parse(poisoned.raw)
    assert answer.status == 422, poisoned
    assert "it was the only request that the crashed engines of two workers had in common" in answer.body.decode()
    assert "SIGABRT" in answer.body.decode()
    assert [parse(one.raw).status for one in again] == [422, 422]
    assert max(one.seconds for one in again) < 20
    assert killed == 2
    assert [str(one) for one in load.outcomes if one.verdict.result is not Result.COMPLETE] == []
    assert [len(page["refused"]) for page in pages] == [1, 1]
    assert counted == [2, 1]


async def test_a_common_prompt_that_meets_two_kills_is_never_refused(tmp_path: Path) -> None:
    common = Request("the same question for all", 120, Route.CHAT)
    async with fleet(tmp_path, DEATHS) as running:
        for victim in running.workers[:2]:
            asked = [asyncio.create_task(exchange(common, running.ports[i % 2 :])) for i in range(12)]
            await auntil(partial(_runs, victim), 10, "the victim to have the prompt")
            victim.kill_vllm()
            outcomes = await asyncio.gather(*asked)
            assert [str(one) for one in outcomes if one.verdict.result is not Result.COMPLETE] == []
        later = [await exchange(common, ports) for ports in (running.ports, running.ports[::-1])]
        await auntil(running.whole, 30, "the killed workers to be back")
        killed, counted = await restarts(running), await refusals(running)

    assert [one.verdict.result for one in later] == [Result.COMPLETE] * 2
    assert killed == 2
    assert counted == [0, 0]


async def test_a_stream_that_crashes_two_engines_is_not_sent_to_a_third_and_then_refused(tmp_path: Path) -> None:
    """The first engine dies in mid-stream, and each one that is asked to go on at once."""
    faults: list[dict[str, object]] = [
        {"kind": "die", "marker": MARKER, "after_tokens": 4, "paths": ["/v1/chat/completions"]},
        {"kind": "die", "paths": ["/v1/completions"]},
    ]
    answers, repeats = [], []
    async with fleet(tmp_path, Plan(worker_flags=(*FLAGS, "--death", "abort"))) as running:
        for route in (Route.CHAT_STREAM, Route.V1_STREAM):
            for worker in running.workers:
                await worker.set_faults(*faults)
            stream = Request(f"a stream with {MARKER}", 12, route)
            answers.append(await exchange(stream, running.ports))
            await auntil(running.whole, 60, "the crashed workers to be back")
            repeats += [await exchange(stream, ports) for ports in (running.ports, running.ports[::-1])]
        killed = await restarts(running)

    assert [(one.verdict.result, one.verdict.kind) for one in answers] == [(Result.ERROR, "line")] * 2, answers
    assert killed == 4
    for repeat in repeats:
        refusal = parse(repeat.raw)
        assert refusal.status == 422, repeat
        assert "it was the only request that the crashed engines of two workers had in common" in refusal.body.decode()


async def test_a_stream_that_others_complete_after_each_crash_is_refused_after_two(tmp_path: Path) -> None:
    """Its tokens are harmless to the engines that go on with them."""
    fatal = {"kind": "die", "marker": MARKER, "after_tokens": 4, "paths": ["/v1/chat/completions"]}
    stream = Request(f"a stream with {MARKER}", 12, Route.CHAT_STREAM)
    async with fleet(tmp_path, Plan(worker_flags=(*FLAGS, "--death", "abort"))) as running:
        for worker in running.workers:
            await worker.set_faults(fatal)
        answers = [await exchange(stream, running.ports) for _ in range(2)]
        await auntil(partial(_refuses, running), 15, "the routers to refuse it")
        repeats = [await exchange(stream, ports) for ports in (running.ports, running.ports[::-1])]
        await auntil(running.whole, 60, "the crashed workers to be back")
        killed = await restarts(running)

    assert [one.verdict.result for one in answers] == [Result.COMPLETE] * 2, answers
    assert [parse(one.raw).status for one in repeats] == [422, 422]
    assert killed == 2


async def _refuses(running: Fleet) -> bool:
    pages = [(await router.get("/admin/workers")).json() for router in running.routers]
    return [len(page["refused"]) for page in pages] == [1, 1]


async def _runs(victim: Agent) -> bool:
    return bool((await victim.stats()).get("running"))
