"""A worker that receives SIGTERM finishes the requests that it has."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime

from tests.support.fleet.main_job import PLAIN, SLOTS, Fleet
from tests.support.fleet.streams import Figures, client, generate_body, streaming
from tests.support.until import auntil

STREAMS = SLOTS + 4
"""Eight run, one or two wait inside vLLM, and the rest waits in the router."""
TOKENS = 1500
"""Longer than any delay between the signal and a look at its effect."""


async def test_a_worker_drains_its_streams_on_sigterm(fleet: Fleet, record_property: Figures) -> None:
    url = f"{fleet.url}/api/generate"
    async with client() as http, streaming(url, generate_body(TOKENS, PLAIN), STREAMS, "drain") as (streams, tasks):
        await auntil(lambda: sum(one.has_content for one in streams) >= SLOTS, 120, "all slots stream")
        begun = {one.id for one in streams if one.has_content}
        signalled = datetime.now(UTC)
        fleet.worker.signal(signal.SIGTERM)
        await auntil(lambda: fleet.states().get("plain") == "draining", 60, "routers know")
        refused = await http.post(url, json=generate_body(5, PLAIN), headers={"x-request-id": "refused"})
        assert refused.status_code == 503
        assert "draining" in refused.json()["error"]
        assert int(refused.headers["retry-after"]) >= 1
        await asyncio.gather(*tasks)
    ids = {one.id for one in streams} | {"refused"}
    await auntil(lambda: ids <= fleet.serve.requests().keys(), 30, "all are logged")
    log = fleet.serve.requests()
    assert (log["refused"].get("attempts", 0), log["refused"].get("queue_ms", 0)) == (0, 0), (
        "a new request does not wait"
    )
    drained = [one for one in streams if one.id in begun and datetime.fromisoformat(log[one.id]["time"]) > signalled]
    assert drained, "none ran at the signal"
    assert all(one.complete and one.tokens == TOKENS for one in streams if one.id in begun)
    left = [one for one in streams if not one.complete]
    assert all((one.status, len(one.lines), len(one.errors)) == (503, 1, 1) for one in left)
    assert not any(log[one.id].get("attempts") for one in left), "they waited in the router, and have no other worker"
    record_property(
        "figure",
        f"SIGTERM to the only agent of a model: {len(drained)} streams ran on and finished; of {STREAMS - len(begun)} "
        f"that waited, {STREAMS - len(begun) - len(left)} finished and {len(left)} got a 503",
    )
    assert await asyncio.to_thread(fleet.worker.wait, 120) == 0
    await asyncio.to_thread(fleet.worker.wait_gone, 30)
    await auntil(lambda: "plain" not in fleet.states(), 60, "it has left")
