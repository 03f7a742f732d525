"""Patterns, splits and maintenance of the routing file, over real sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fleet.live import fleet
from tests.support.operations import REQUESTS, Request, error_text, is_whole
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
