"""A request that vLLM refuses for its length goes to a larger replica, for every operation of the table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tests.support.fleet.live import Fleet, fleet
from tests.support.operations import REQUESTS, Request, error_text, is_whole
from tests.support.until import auntil
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

LARGE = Options(model="m", tokens_per_second=5000, ttft=0.001, answer_tokens=8, slots=32)
LONG = [request for request in REQUESTS if not (request.counts or request.hears)]
every = pytest.mark.parametrize("request_", LONG, ids=map(str, LONG))


async def prefer_small(running: Fleet) -> None:
    """Make the small worker the first choice. Its record tells a larger context than vLLM has, but not the largest."""
    small, large = running.workers["small"], running.workers["large"]
    (model,) = small.record.models
    small.record = msgspec.structs.replace(
        small.record, models=(msgspec.structs.replace(model, context_length=4096),), generation=2
    )
    large.record = msgspec.structs.replace(large.record, speed=0.01, generation=2)
    await small.join()
    await large.join()
    await auntil(lambda: _is_slow(running), 10, "the router to see the records")


async def _is_slow(running: Fleet) -> bool:
    workers = (await running.http.get("/admin/workers")).json()["workers"]
    return any(worker["id"] == "large" and worker["speed"] < 1 for worker in workers)


@every
async def test_a_larger_replica_answers_what_is_too_long_for_the_first_one(tmp_path: Path, request_: Request) -> None:
    large = replace(LARGE, embedding=request_.embeds)
    workers = {"small": replace(large, max_model_len=1), "large": large}
    async with fleet(tmp_path, workers) as running:
        await prefer_small(running)
        content = request_.content("m")
        response = await running.http.post(request_.path, **content, headers={"x-request-id": "long"})
        assert is_whole(request_, response), response.text
        record = await running.record("long")
        assert (record["worker"], record["attempts"], record["failures"]) == ("large", 2, ["ContextTooLong"])
        assert "fallbacks" not in record
        states = await running.states()
        assert states == {"small": "ready", "large": "ready"}

        running["large"].set_faults([faults.Status(status=429, paths=(request_.worker_path,))])
        busy = await running.http.post(request_.path, **content)
        assert busy.status_code == 429, "what fits at a busy worker is not shortened"
        assert error_text(request_, busy)
