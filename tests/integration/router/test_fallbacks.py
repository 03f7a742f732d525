"""Fallbacks by reason, and larger contexts, for every operation of the table."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.support.fleet.live import Fleet, fleet
from tests.support.operations import REQUESTS, Request, error_text, is_whole
from tests.support.tables import routing_table
from tests.support.until import auntil
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

CHAT = Options(tokens_per_second=5000, ttft=0.001, answer_tokens=8, slots=32)
TRACE = {"x-vllama-trace": "1"}
every = pytest.mark.parametrize("request_", REQUESTS, ids=map(str, REQUESTS))

FAULTS: dict[str, tuple[str, faults.RequestFault]] = {
    "busy": ("overloaded", faults.Status(status=429)),
    "lost": ("error", faults.Cut()),
    "faulty": ("error", faults.Status(status=500)),
    "unavailable": ("error", faults.Status(status=502)),
    "unauthorized": ("error", faults.Status(status=403)),
    "gone": ("no_worker", faults.Status(status=404)),
}
"""Reason and fault by the entry's name. The worker "w-ENTRY" alone serves it."""
TOO_SHORT = {"max_model_len": 1}


def options(request: Request, model: str, **changes: Any) -> Options:
    return replace(CHAT, model=model, embedding=request.embeds, transcription=request.hears, **changes)


async def ask(running: Fleet, request: Request, model: str, **headers: str) -> httpx.Response:
    return await running.http.post(request.path, **request.content(model), headers={**TRACE, **headers})


async def assert_fell_back(running: Fleet, request: Request, entry: str, reason: str, *, attempts: int) -> None:
    """The client has the spare's answer, under the name that it asked for."""
    asked = f"{entry.upper()}:latest"
    response = await ask(running, request, asked, **{"x-request-id": entry})
    assert is_whole(request, response), (entry, response.text)
    if request.names_model:
        assert f'"{asked}"' in response.text
        assert "spare" not in response.text
    record = await running.record(entry)
    assert (record["model"], record["served"], record["worker"]) == (entry, "spare", "w-spare")
    assert (record["status"], record["outcome"], record["attempts"]) == (200, "complete", attempts)
    assert [(move["reason"], move["target"]) for move in record["fallbacks"]] == [(reason, "spare")]
    headers = response.headers
    assert (headers["x-vllama-worker"], headers["x-vllama-attempts"]) == ("w-spare", str(attempts))
    assert (headers["x-vllama-rule"], headers["x-vllama-fallback"]) == (entry, f"{reason}: spare")
    metrics = (await running.http.get("/metrics")).text
    assert f'vllama_fallbacks_total{{model="{entry}",reason="{reason}",target="spare"}} 1' in metrics


async def assert_idle(running: Fleet) -> None:
    await auntil(lambda: _in_flight(running, 0), 10, "the requests to end")
    await auntil(lambda: not any(each.worker.running for each in running.workers.values()), 10, "vLLM to be free")


async def _in_flight(running: Fleet, count: int) -> bool:
    workers = (await running.http.get("/admin/workers")).json()["workers"]
    return sum(int(worker["in_flight"]) for worker in workers) == count


@every
async def test_each_reason_leads_to_the_fallback_for_it(tmp_path: Path, request_: Request) -> None:
    takes_context = not (request_.counts or request_.hears)
    reasons = {"drained": "no_worker", "short": "context", **{entry: reason for entry, (reason, _) in FAULTS.items()}}
    workers = {f"w-{entry}": options(request_, f"s-{entry}") for entry in reasons}
    workers |= {"w-short": options(request_, "s-short", **TOO_SHORT), "w-spare": options(request_, "spare")}
    models = {entry: {"serve": f"s-{entry}", "fallback": {reason: ["spare"]}} for entry, reason in reasons.items()}
    async with fleet(tmp_path, workers, table=routing_table(models=models)) as running:
        await running.workers["w-drained"].drain()
        for entry, (_, fault) in FAULTS.items():
            running[f"w-{entry}"].set_faults([msgspec.structs.replace(fault, paths=(request_.worker_path,))])
        await auntil(lambda: _drains(running, "w-drained"), 10, "the worker to drain")
        await assert_fell_back(running, request_, "drained", "no_worker", attempts=1)
        for entry, (reason, _) in FAULTS.items():
            await assert_fell_back(running, request_, entry, reason, attempts=2)
        if takes_context:
            await assert_fell_back(running, request_, "short", "context", attempts=2)
        await assert_idle(running)


async def _drains(running: Fleet, worker: str) -> bool:
    return (await running.states())[worker] == "draining"


@every
async def test_another_reason_than_the_fallbacks_is_the_clients_error(tmp_path: Path, request_: Request) -> None:
    others = {"busy": "error", "faulty": "overloaded", "gone": "context"}
    workers = {f"w-{entry}": options(request_, f"s-{entry}") for entry in others}
    models = {entry: {"serve": f"s-{entry}", "fallback": {other: ["spare"]}} for entry, other in others.items()}
    workers["w-spare"] = options(request_, "spare")
    async with fleet(tmp_path, workers, table=routing_table(models=models)) as running:
        for entry in others:
            running[f"w-{entry}"].set_faults([msgspec.structs.replace(FAULTS[entry][1], paths=(request_.worker_path,))])
        for entry, status in {"busy": 429, "faulty": 500, "gone": 404}.items():
            response = await ask(running, request_, entry)
            assert response.status_code == status, (entry, response.text)
            assert error_text(request_, response)
            headers = response.headers
            attempts = "3" if entry == "busy" else "1"  # after a 429, it waits for the worker again
            assert (headers["x-vllama-worker"], headers["x-vllama-attempts"]) == (f"w-{entry}", attempts)
            assert "x-vllama-fallback" not in headers
        await assert_idle(running)


@every
async def test_a_full_queue_leads_to_the_fallback_without_an_attempt(tmp_path: Path, request_: Request) -> None:
    models = {"m": {"serve": "main", "fallback": ["spare"], "limits": {"concurrency": 1, "queue": 0}}}
    workers = {"w-main": options(request_, "main"), "w-spare": options(request_, "spare")}
    async with fleet(tmp_path, workers, table=routing_table(models=models)) as running:
        running["w-main"].set_faults([faults.Hang(paths=(request_.worker_path,))])
        first = asyncio.create_task(ask(running, request_, "m"))
        await auntil(lambda: _in_flight(running, 1), 10, "the first request to run")
        await assert_fell_back(running, request_, "m", "overloaded", attempts=1)
        first.cancel()
        await asyncio.wait([first])
        await assert_idle(running)


@every
async def test_a_client_that_leaves_during_a_fallback_frees_everything(tmp_path: Path, request_: Request) -> None:
    models = {"m": {"serve": "main", "fallback": ["spare"], "limits": {"concurrency": 1}}}
    workers = {"w-main": options(request_, "main"), "w-spare": options(request_, "spare")}
    async with fleet(tmp_path, workers, table=routing_table(models=models)) as running:
        running["w-main"].set_faults([faults.Status(status=502, paths=(request_.worker_path,))])
        running["w-spare"].set_faults([faults.Hang(paths=(request_.worker_path,))])
        task = asyncio.create_task(ask(running, request_, "m", **{"x-request-id": "left"}))
        await auntil(lambda: _in_flight_on(running, "w-spare"), 10, "the fallback to be asked")
        task.cancel()
        await asyncio.wait([task])
        record = await running.record("left")
        assert (record["status"], record["outcome"]) == (499, "client gone")
        await assert_idle(running)
        running["w-main"].set_faults([])
        assert is_whole(request_, await ask(running, request_, "m")), "the place of the model was not freed"


async def _in_flight_on(running: Fleet, worker: str) -> bool:
    workers = (await running.http.get("/admin/workers")).json()["workers"]
    return any(each["id"] == worker and each["in_flight"] for each in workers)


@every
async def test_models_that_fall_back_to_each_others_workers_end_with_the_first_ones_error(
    tmp_path: Path, request_: Request
) -> None:
    """A chain has an end, however the models refer to each other by served names."""
    models = {
        "a": {"serve": "s-a", "fallback": ["b", "c"]},
        "b": {"serve": "s-b", "fallback": ["c"]},
        "c": {"serve": "s-c"},
    }
    workers = {f"w-{entry}": options(request_, f"s-{entry}") for entry in models}
    async with fleet(tmp_path, workers, table=routing_table(models=models)) as running:
        for number, entry in enumerate(models):
            running[f"w-{entry}"].set_faults([faults.Status(status=500 + number, paths=(request_.worker_path,))])
        response = await ask(running, request_, "a", **{"x-request-id": "all"})
        assert response.status_code == 500, response.text
        assert response.headers["x-vllama-fallback"] == "error: b, error: c"
        record = await running.record("all")
        assert record["attempts"] == 3
        await assert_idle(running)
