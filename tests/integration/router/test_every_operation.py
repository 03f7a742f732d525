"""Failures, leaving clients and errors, for every operation of the table."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.support.fleet.live import Fleet, fleet
from tests.support.operations import REQUESTS, Request, all_paths, error_text, is_whole
from tests.support.until import auntil
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

CHAT = Options(model="tiny", tokens_per_second=5000, ttft=0.001, answer_tokens=8, slots=32)
EARS = replace(CHAT, transcription=True)
EMBED = Options(model="tiny", embedding=True, slots=32)
every = pytest.mark.parametrize("request_", REQUESTS, ids=map(str, REQUESTS))


def options(request: Request) -> Options:
    return EMBED if request.embeds else EARS if request.hears else CHAT


async def ask(running: Fleet, request: Request, model: str = "tiny", **headers: str) -> httpx.Response:
    return await running.http.post(request.path, **request.content(model), headers=headers)


def test_every_operation_of_the_table_has_a_request() -> None:
    assert {request.path for request in REQUESTS} == all_paths() - {"/v1/audio/translations"}  # not simulated


@every
async def test_a_failure_before_the_first_content_is_retried_on_another_worker(
    tmp_path: Path, request_: Request
) -> None:
    """Each fault has a model of its own, with a slow worker that is well and is therefore chosen last."""
    kinds = {f"m{number}": fault for number, fault in enumerate(_faults(request_))}
    workers = {
        name: replace(options(request_), model=name.removesuffix("-well"))
        for each in kinds
        for name in (each, f"{each}-well")
    }
    async with fleet(tmp_path, workers) as running:
        for name, fault in kinds.items():
            running[name].set_faults([fault])
            well = running.workers[f"{name}-well"]
            well.record = msgspec.structs.replace(well.record, speed=0.01, generation=2)
            await well.join()
        await auntil(lambda: _all_slow(running), 10, "the router to see the speeds")
        for name, fault in kinds.items():
            response = await ask(running, request_, model=name, **{"x-request-id": name})
            assert is_whole(request_, response), (fault, response.text)
        for name, fault in kinds.items():
            record = await running.record(name)
            assert (record["worker"], record["attempts"]) == (f"{name}-well", 2), (fault, record)


async def _all_slow(running: Fleet) -> bool:
    workers = (await running.http.get("/admin/workers")).json()["workers"]
    return sum(worker["speed"] < 1 for worker in workers) * 2 == len(workers)


def _faults(request: Request) -> list[faults.RequestFault]:
    paths = (request.worker_path,)
    always: list[faults.RequestFault] = [
        *(faults.Status(status=status, paths=paths) for status in (500, 503, 429)),
        faults.Cut(paths=paths),
        faults.Cut(reset=True, paths=paths),
        faults.Body(body='{"error": {"message": "boom", "code": 500}}', paths=paths),
    ]
    if request.embeds or request.counts:
        return always
    return [
        *always,
        faults.Garbage(where="head", paths=paths),
        faults.Garbage(where="event" if request.stream else "chunk", paths=paths),
        *(faults.Error(status=status, paths=paths) for status in (500, 503)),
    ]


@every
async def test_a_client_that_leaves_frees_its_worker(tmp_path: Path, request_: Request) -> None:
    async with fleet(tmp_path, {"a": options(request_)}) as running:
        running["a"].set_faults([faults.Hang(paths=(request_.worker_path,))])
        task = asyncio.create_task(ask(running, request_, **{"x-request-id": "left"}))
        await auntil(lambda: _in_flight(running, 1), 10, "the request to be in flight")
        task.cancel()
        await asyncio.wait([task])
        await auntil(lambda: _in_flight(running, 0), 10, "the request to end")
        await auntil(lambda: running["a"].running == 0, 10, "the worker to be free")
        assert (await running.record("left"))["status"] == 499
        running["a"].set_faults([])
        assert is_whole(request_, await ask(running, request_))


async def _in_flight(running: Fleet, count: int) -> bool:
    workers = (await running.http.get("/admin/workers")).json()["workers"]
    return sum(int(worker["in_flight"]) for worker in workers) == count


@every
async def test_errors_have_the_format_of_the_api(tmp_path: Path, request_: Request) -> None:
    async with fleet(tmp_path, {"a": options(request_)}) as running:
        unknown = await ask(running, request_, model="nope")
        assert unknown.status_code == 404
        assert "nope" in error_text(request_, unknown)
        for body in (b"{", b"[]", b'"x"', b""):
            bad = await running.http.post(request_.path, content=body)
            assert bad.status_code == 400, bad.text
            assert error_text(request_, bad)

        running["a"].set_faults([faults.Status(status=400, paths=(request_.worker_path,))])
        refused = await ask(running, request_)
        assert refused.status_code in (400, 500)  # Ollama answers 500 on /api/embeddings
        assert error_text(request_, refused)

        running["a"].set_faults([faults.Status(status=429, retry_after=7, paths=(request_.worker_path,))])
        busy = await ask(running, request_)
        assert (busy.status_code, busy.headers["retry-after"]) == (429, "7")
        assert error_text(request_, busy)

        running["a"].set_faults([])
        await running.workers["a"].drain()
        await auntil(lambda: _state(running, "draining"), 10, "the worker to drain")
        gone = await ask(running, request_)
        assert (gone.status_code, gone.headers["retry-after"]) == (503, "5")
        assert error_text(request_, gone).startswith("no worker is available for model 'tiny': ")


async def _state(running: Fleet, state: str) -> bool:
    return (await running.states())["a"] == state


@every
async def test_a_request_is_logged_and_counted_with_its_tokens(tmp_path: Path, request_: Request) -> None:
    async with fleet(tmp_path, {"a": options(request_)}) as running:
        response = await ask(running, request_, model="TINY:latest", **{"x-request-id": "counted"})
        assert is_whole(request_, response)
        if request_.names_model:
            assert '"TINY:latest"' in response.text
        record = await running.record("counted")
        assert (record["status"], record["outcome"], record["model"]) == (200, "complete", "tiny")
        if request_.names_model or request_.path == "/api/embeddings":
            assert record["prompt_tokens"] > 0 or request_.path == "/api/embeddings"
            assert (record.get("completion_tokens", 0) > 0) != request_.embeds
        metrics = (await running.http.get("/metrics")).text
        assert f'operation="{record["operation"]}"' in metrics


@every
async def test_a_worker_that_never_answers_ends_in_a_timeout(tmp_path: Path, request_: Request) -> None:
    limits = {"first_token_timeout": 0.5, "answer_timeout": 0.5}
    async with fleet(tmp_path, {"a": options(request_)}, **limits) as running:
        running["a"].set_faults([faults.Hang(paths=(request_.worker_path,))])
        late = await ask(running, request_)
        assert late.status_code == 504
        assert error_text(request_, late).startswith("the worker did not ")
        await auntil(lambda: running["a"].running == 0, 10, "the worker to be free")
