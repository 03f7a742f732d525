"""The headers that tell a request's route: for those who ask, on every operation, answered or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.support.fleet.live import Fleet, fleet
from tests.support.operations import REQUESTS, Request, is_whole
from tests.support.tables import routing_table
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

TINY = Options(model="tiny", tokens_per_second=5000, ttft=0.001, answer_tokens=8, slots=32)
TABLE = routing_table(models={"m": {"serve": "tiny"}, "gone*": {"serve": "nothing"}})
every = pytest.mark.parametrize("request_", REQUESTS, ids=map(str, REQUESTS))


async def ask(running: Fleet, request: Request, model: str = "m", **headers: str) -> httpx.Response:
    return await running.http.post(request.path, **request.content(model), headers=headers)


def route(response: httpx.Response) -> dict[str, str]:
    return {
        name.removeprefix("x-vllama-"): value
        for name, value in response.headers.items()
        if name.startswith("x-vllama-") and name != "x-vllama-queue-ms"
    }


@every
async def test_every_operation_tells_its_route_to_those_who_ask(tmp_path: Path, request_: Request) -> None:
    options = replace(TINY, embedding=request_.embeds, transcription=request_.hears)
    async with fleet(tmp_path, {"a": options}, table=TABLE) as running:
        plain = await ask(running, request_)
        assert is_whole(request_, plain)
        assert (route(plain), plain.headers.get("x-vllama-queue-ms")) == ({}, None)

        answered = await ask(running, request_, x_vllama_trace="0")
        assert route(answered) == {}
        answered = await ask(running, request_, **{"x-vllama-trace": "1"})
        assert is_whole(request_, answered)
        assert route(answered) == {"worker": "a", "attempts": "1", "rule": "m"}
        assert float(answered.headers["x-vllama-queue-ms"]) >= 0
        assert answered.headers["x-request-id"]

        running["a"].set_faults([faults.Status(status=400, paths=(request_.worker_path,))])
        refused = await ask(running, request_, **{"x-vllama-trace": "1"})
        assert refused.status_code in (400, 500)
        assert route(refused) == {"worker": "a", "attempts": "1", "rule": "m"}

        unknown = await ask(running, request_, "nope", **{"x-vllama-trace": "1"})
        assert (unknown.status_code, route(unknown)) == (404, {"attempts": "0"})
        absent = await ask(running, request_, "gone1", **{"x-vllama-trace": "1"})
        assert (absent.status_code, route(absent)) == (503, {"attempts": "0", "rule": "gone*"})
        assert absent.headers["x-request-id"]
        bad = await running.http.post(request_.path, content=b"{", headers={"x-vllama-trace": "1"})
        assert (bad.status_code, route(bad)) == (400, {"attempts": "0"})


async def test_a_setting_tells_the_route_of_every_request_that_does_not_refuse_it(tmp_path: Path) -> None:
    chat = next(request for request in REQUESTS if request.path == "/api/chat")
    async with fleet(tmp_path, {"a": TINY}, table=TABLE, trace=True) as running:
        assert route(await ask(running, chat))["worker"] == "a"
        assert route(await ask(running, chat, **{"x-vllama-trace": "0"})) == {}
        load = await running.http.post("/api/generate", json={"model": "m"})
        assert route(load) == {"attempts": "0", "rule": "m"}
        assert route(await running.http.get("/api/version")) == {}


async def test_scripts_of_an_allowed_origin_may_ask_for_the_route_and_read_it(tmp_path: Path) -> None:
    chat = next(request for request in REQUESTS if request.path == "/api/chat")
    origin = {"origin": "http://localhost"}
    async with fleet(tmp_path, {"a": TINY}, table=TABLE) as running:
        preflight = await running.http.options(chat.path, headers={**origin, "access-control-request-method": "POST"})
        assert "x-vllama-trace" in preflight.headers["access-control-allow-headers"].lower()
        answered = await ask(running, chat, **origin, **{"x-vllama-trace": "1"})
        assert "X-Vllama-Worker" in answered.headers["access-control-expose-headers"]
        assert "access-control-expose-headers" not in (await ask(running, chat, **origin)).headers
