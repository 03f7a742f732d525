"""kill -9 of a vLLM, an agent and `vllama serve`: effects on clients, and processes that remain."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter

import httpx
import psutil
import pytest

from tests.support.fleet.main_job import MODEL, SLOTS, Fleet, MainJob
from tests.support.fleet.streams import BackgroundLoad, Figures, Stream, chat_body, streaming
from tests.support.operations import REQUESTS, Request, ends_with_error, is_whole
from tests.support.processes import is_alive, process_group, tree
from tests.support.until import auntil

STREAMS = 3 * SLOTS
"""More than both workers have slots: the rest waits in the router."""
TOKENS = 150
SURVIVOR, DOOMED = "smollm2-0", "smollm2-1"
GENERATIONS = [each for each in REQUESTS if each.path.startswith("/v1/") and each.stream is not None and not each.hears]


@pytest.fixture
def fleet(main_job: MainJob) -> Fleet:
    """The workers of `vllama serve`; the worker of its own may be gone."""
    return main_job.whole(["smollm2-0", "smollm2-1"])


@pytest.fixture
def survivors(main_job: MainJob) -> Fleet:
    """Only one worker is ready for certain, and another may be loading."""
    return main_job.whole([SURVIVOR])


async def test_no_stream_of_ollamas_api_is_lost_with_a_vllm(fleet: Fleet, record_property: Figures) -> None:
    """Only the server process is killed: its engine and the engine's worker, one process group, go with it.

    The streams of the lost vLLM go on with the other one. Those of `/v1/responses` and `/v1/messages` cannot.
    """
    doomed = fleet.serve.vllm("smollm2-0")
    assert len(process_group(doomed.pid)) >= 3
    async with asyncio.TaskGroup() as group:
        others = [group.create_task(_ask(fleet, request)) for request in GENERATIONS]
        await _kill(fleet, doomed, record_property, others)


async def _kill(
    fleet: Fleet, doomed: psutil.Process, record_property: Figures, others: list[asyncio.Task[str]]
) -> None:
    async with streaming(f"{fleet.url}/api/chat", chat_body(TOKENS), STREAMS, "failover") as (streams, tasks):
        await auntil(lambda: len(_flowing(streams, tasks)) > SLOTS + 1, 240, "more stream than one worker runs")
        begun = {one.id for one in streams if one.has_content}
        os.kill(doomed.pid, signal.SIGKILL)
        killed = time.monotonic()
        async with BackgroundLoad(fleet, 2, pause=0.5) as load:
            await auntil(lambda: _note(fleet).startswith("vLLM died (SIGKILL)"), 60, "the router knows")
            shown = time.monotonic() - killed
            assert "restarting" in await asyncio.to_thread(fleet.row, "smollm2-0"), "vllama ps shows it"
            await auntil(lambda: not process_group(doomed.pid), 30, "the engine is gone")
            assert MODEL in [model["name"] for model in await asyncio.to_thread(_listed, fleet)]
            await asyncio.gather(*tasks)
            endings = Counter(await asyncio.gather(*others))
            answered = time.monotonic() - killed
            await auntil(
                lambda: fleet.states().get("smollm2-0") == "ready", 400, "the agent brings it back", interval=0.5
            )
            back = time.monotonic() - killed
        assert load.requests.failures == []
        assert load.unlisted == 0
    await auntil(lambda: {one.id for one in streams} <= fleet.serve.requests().keys(), 60, "all are logged")
    log = fleet.serve.requests()
    resumed = {one.id for one in streams if log[one.id].get("resumed")}
    moved = {one.id for one in streams if log[one.id]["attempts"] > 1} - resumed
    assert resumed, "some were streaming from the killed vLLM"
    assert set(endings) <= {"whole", "broken"}
    for one in streams:
        assert one.status == 200
        assert one.complete, one.lines[-1]
        assert one.tokens == TOKENS
        assert log[one.id]["outcome"] == "complete"
    assert not moved & begun, "no request with content begins again"
    equal = max(Counter(one.text for one in streams).values())
    assert fleet.workers()["smollm2-0"]["restarts"] == 1
    record_property(
        "figure",
        f"kill -9 of a vLLM under {STREAMS} streams: 0 broken, {len(resumed)} resumed, {len(moved)} moved, "
        f"{equal} with one text, known after {shown:.1f} s, "
        f"streams done after {answered:.0f} s, back after {back:.0f} s; {len(load.requests.statuses)} new requests, "
        f"0 failed, slowest {load.requests.slowest:.1f} s; of {endings.total()} on /v1, {endings['broken']} broken",
    )
    await _is_used_again(fleet)


async def _ask(fleet: Fleet, request: Request) -> str:
    """Return how a request ends: "whole", "broken" with the API's own error, or its text."""
    limit = "max_output_tokens" if "input" in request.fields else "max_tokens"
    body = request.content(MODEL)["json"] | {"temperature": 0, limit: 100}
    async with httpx.AsyncClient(base_url=fleet.url, timeout=300, trust_env=False) as http:
        response = await http.post(request.path, json=body)
    if is_whole(request, response):
        return "whole"
    broken = request.stream and response.status_code == 200 and ends_with_error(request, response.text)
    return "broken" if broken else f"{request}: {response.status_code} {response.text[-300:]}"


async def _is_used_again(fleet: Fleet) -> None:
    async with streaming(f"{fleet.url}/api/chat", chat_body(20), 2 * SLOTS, "again") as (streams, tasks):
        await asyncio.gather(*tasks)
    assert all(one.complete for one in streams)
    await auntil(lambda: {one.id for one in streams} <= fleet.serve.requests().keys(), 60, "all are logged")
    assert "smollm2-0" in {fleet.serve.requests()[one.id]["worker"] for one in streams}


async def test_killing_an_agent_ends_its_vllm_and_fails_no_request(fleet: Fleet, record_property: Figures) -> None:
    """`vllama serve` starts another one at once. That a new agent serves is told in test_registry.py, in less time."""
    agent, vllm = fleet.serve.agent(DOOMED), fleet.serve.vllm(DOOMED)
    all_of_it = [agent, *tree(agent)]
    assert len(process_group(vllm.pid)) >= 2
    async with BackgroundLoad(fleet, 2, pause=0.2) as load:
        await auntil(lambda: len(load.requests.statuses) > 2, 120, "there is load")
        agent.kill()
        killed = time.monotonic()
        await auntil(lambda: not any(is_alive(one) for one in all_of_it), 60, "its vLLM is gone")
        gone = time.monotonic() - killed
        assert process_group(vllm.pid) == []
        await auntil(lambda: _loads_anew(fleet, agent), 120, "a new agent loads a new vLLM")
        anew = time.monotonic()
        await auntil(lambda: load.requests.failures or load.requests.within(anew) > 2, 120, "further answers")
    assert load.requests.failures == []
    assert load.unlisted == 0
    record_property(
        "figure", f"kill -9 of an agent: its vLLM gone after {gone:.1f} s, {anew - killed:.1f} s to the next"
    )


async def test_killing_vllama_serve_lets_streams_finish(survivors: Fleet, record_property: Figures) -> None:
    """The kernel sends SIGTERM to its children when it dies, so they drain. A vLLM that only loads ends as well."""
    fleet = survivors
    async with streaming(f"{fleet.url}/api/chat", chat_body(60), SLOTS, "orphans") as (streams, tasks):
        await auntil(lambda: all(one.has_content for one in streams), 240, "they stream")
        assert len(fleet.serve.descendants()) >= 9
        fleet.serve.signal(signal.SIGKILL)
        await asyncio.gather(*tasks)
        done = time.monotonic()
    assert all(one.complete for one in streams)
    await asyncio.to_thread(fleet.serve.wait_gone, 60)
    left = time.monotonic() - done
    record_property("figure", f"kill -9 of vllama serve: nothing left {left:.1f} s after the last of {SLOTS} streams")


def _flowing(streams: list[Stream], tasks: list[asyncio.Task[None]]) -> list[Stream]:
    return [one for one, task in zip(streams, tasks, strict=True) if one.has_content and not task.done()]


def _loads_anew(fleet: Fleet, before: psutil.Process) -> bool:
    """Return True if another agent has started its guardian, and that one vLLM."""
    agent = fleet.serve.find("vllama_pool.router.cli.main", DOOMED)
    return agent is not None and agent != before and len(tree(agent)) >= 2


def _note(fleet: Fleet) -> str:
    """Return the agent's explanation of its worker's state."""
    return str(fleet.workers()["smollm2-0"]["note"])


def _listed(fleet: Fleet) -> list[dict[str, str]]:
    listed: list[dict[str, str]] = fleet.get("/api/ps")["models"]
    return listed
