"""Patterns, splits and maintenance of the routing file, over real sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fleet.live import fleet
from tests.support.operations import REQUESTS, Request, error_text, is_whole
from tests.support.until import auntil
from vllama_pool.config.routing.table import parse
from vllama_pool.workers.simulated.options import Options

every = pytest.mark.parametrize("request_", REQUESTS, ids=map(str, REQUESTS))


def worker(request: Request, model: str) -> Options:
    if request.embeds:
        return Options(model=model, embedding=True)
    return Options(model=model, tokens_per_second=5000, ttft=0.001, answer_tokens=8, transcription=True)


SPLIT = b"""
models:
  "canary-*":
    serve: ["old-{1}", "new-{1}"]
    split: header:X-Team
  away: {serve: old-tiny, maintenance: back at 14:00}
"""


@every
async def test_each_operation_keeps_its_side_of_a_pattern_and_is_refused_in_maintenance(
    tmp_path: Path, request_: Request
) -> None:
    options = {name: worker(request_, f"{name}-tiny") for name in ("old", "new")}
    async with fleet(tmp_path, options, table=parse(SPLIT)) as running:
        sides: dict[str, set[str]] = {}
        for team in ("red", "blue", "green", "grey") * 2:
            name = f"{team}-{len(sides.get(team, ()))}-{id(request_)}"
            headers = {"x-team": team, "x-request-id": name}
            answer = await running.http.post(request_.path, **request_.content("Canary-tiny"), headers=headers)
            assert is_whole(request_, answer)
            record = await running.record(name)
            assert record["model"] == "canary-*"
            sides.setdefault(team, set()).add(record["served"])
        assert {frozenset(served) for served in sides.values()} == {frozenset({"old-tiny"}), frozenset({"new-tiny"})}
        refused = await running.http.post(request_.path, **request_.content("away"))
        assert (refused.status_code, error_text(request_, refused)) == (503, "back at 14:00")
        assert "retry-after" not in refused.headers


ASIDE = """
maintenance:
  - {workers: [a], message: rack 3 moves}
"""


async def test_a_worker_that_is_set_aside_finishes_its_requests_and_gets_no_others(tmp_path: Path) -> None:
    slow = Options(model="tiny", tokens_per_second=200, answer_tokens=8, slots=8)
    async with fleet(tmp_path, {"a": slow, "b": slow}, table=parse(ASIDE.encode()), wait=False) as running:

        async def states() -> dict[str, tuple[str, str]]:
            workers = (await running.http.get("/admin/workers")).json()["workers"]
            return {worker["id"]: (worker["state"], worker["note"]) for worker in workers}

        async def complete() -> bool:
            return await states() == {"a": ("set aside", "rack 3 moves"), "b": ("ready", "")}

        await auntil(complete, 10, "the router to see its workers")
        answers = [await running.http.post("/api/generate", json={"model": "tiny", "prompt": "x"}) for _ in range(6)]
        assert {answer.status_code for answer in answers} == {200}
        assert not running["a"].requests["/v1/chat/completions"]


async def test_an_entrys_requests_go_to_workers_with_its_tags_which_the_error_names_if_there_are_none(
    tmp_path: Path,
) -> None:
    table = b"models: {big: {serve: tiny, workers: {require: [h100]}}, tiny: {}}"
    async with fleet(tmp_path, {"a": Options(model="tiny")}, table=parse(table)) as running:
        refused = await running.http.post("/api/generate", json={"model": "big", "prompt": "x"})
        assert refused.status_code == 503
        assert refused.json() == {
            "error": "no worker is available for model 'big': its workers lack the tags that the routing file asks for"
        }
        assert (await running.http.post("/api/generate", json={"model": "tiny", "prompt": "x"})).status_code == 200
        tags = (await running.http.get("/api/tags")).json()["models"]
        assert [model["name"] for model in tags] == ["tiny:latest"]
