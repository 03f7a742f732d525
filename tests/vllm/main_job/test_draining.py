"""A worker that receives SIGTERM finishes the requests that it has."""

from __future__ import annotations

import asyncio
import signal

from tests.support.fleet.main_job import PLAIN, SLOTS, Fleet
from tests.support.fleet.streams import Figures, client, engine_counts, generate_body, streaming, until_placed
from tests.support.until import auntil

STREAMS = SLOTS + 4
"""Eight run, one or two wait inside vLLM, and the rest waits in the router."""


async def test_a_worker_drains_its_streams_on_sigterm(fleet: Fleet, record_property: Figures) -> None:
    url = f"{fleet.url}/api/generate"
    body = generate_body(800, PLAIN)
    async with (
        client() as http,
        engine_counts(fleet, PLAIN) as read_counts,
        streaming(url, body, STREAMS, "drain") as (streams, tasks),
    ):
        queued = await until_placed(fleet, read_counts, STREAMS, SLOTS, PLAIN)
        assert 0 < queued < STREAMS - SLOTS
        running = sum(not task.done() for task in tasks)
        fleet.worker.signal(signal.SIGTERM)
        await auntil(lambda: fleet.states().get("plain") == "draining", 30, "routers know")
        refused = await http.post(url, json=generate_body(5, PLAIN), headers={"x-request-id": "refused"})
        assert refused.status_code == 503
        assert "draining" in refused.json()["error"]
        assert running == STREAMS, "none was complete at the signal"
        await asyncio.gather(*tasks)
    # by the router's log: on a busy machine the streams delay this process by seconds
    assert fleet.serve.request("refused")["total_ms"] < 1000
    left = [one for one in streams if not one.complete]
    assert len(left) <= queued, "those that wait in the router have no other worker"
    assert all((one.status, len(one.lines), len(one.errors)) == (503, 1, 1) for one in left)
    record_property(
        "figure",
        f"SIGTERM to the only agent of a model: {running} streams, {queued} of them in the router's queue; "
        f"{running - len(left)} finished, {len(left)} got a 503",
    )
    assert await asyncio.to_thread(fleet.worker.wait) == 0
    assert fleet.worker.left() == []
    await auntil(lambda: "plain" not in fleet.states(), 30, "it has left")
