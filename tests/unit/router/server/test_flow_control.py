"""Waiting for a client that is behind."""

from __future__ import annotations

import asyncio

from vllama_pool.router.server.flow_control import FlowControl


async def test_drain_waits_only_while_writing_is_paused() -> None:
    flow = FlowControl(asyncio.Transport())
    await flow.drain()
    for _ in range(2):
        flow.pause_writing()
        waiting = [asyncio.ensure_future(flow.drain()) for _ in range(2)]
        await asyncio.sleep(0)
        assert flow.write_paused
        assert not any(each.done() for each in waiting)
        flow.resume_writing()
        await asyncio.wait_for(asyncio.gather(*waiting), 30)
        assert not flow.write_paused
    await flow.drain()
