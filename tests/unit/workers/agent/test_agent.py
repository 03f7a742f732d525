"""Shutdown order of an agent."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from tests.support.until import auntil
from vllama_pool.workers.agent.agent import Agent
from vllama_pool.workers.agent.announcer import Announcer, FencedOff
from vllama_pool.workers.agent.managed_server import GaveUp
from vllama_pool.workers.registry.client import Fenced, Registered
from vllama_pool.workers.registry.record import LoadReport, WorkerRecord

RECORD = WorkerRecord(id="w", generation=1, url="http://h:1")


@dataclass
class Scene:
    """A server and a registry that record calls in order."""

    calls: list[str] = field(default_factory=list)
    fails: bool = False
    fenced: bool = False
    """Another agent of the worker is alive."""
    looks: int = 0
    endless: bool = False
    """Requests never finish."""
    swallows: int = 0
    """Cancellations that a beat ignores, as can happen when something else ends at the same moment."""
    beating: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self) -> None:
        if self.fails:
            raise GaveUp("no GPU")
        await asyncio.Event().wait()

    async def drain(self, deadline: float) -> None:
        self.calls.append("drain")
        if self.endless:
            await asyncio.Event().wait()

    async def stop(self, grace: float = 0.0) -> None:
        self.calls.append("stop")

    async def kill(self) -> None:
        self.calls.append("kill")

    async def register(self, record: WorkerRecord, load: LoadReport) -> Registered | Fenced:
        self.looks += 1
        return Fenced(2, self.looks) if self.fenced else Registered("e", 1)

    async def beat(self, worker_id: str, generation: int, load: LoadReport) -> bool:
        self.beating.set()
        while self.swallows:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.swallows -= 1
        return True

    async def deregister(self, worker_id: str, generation: int) -> bool:
        self.calls.append("leave")
        return True

    def agent(self) -> Agent:
        announcer = Announcer(self, lambda line: None, interval=0.01, rng=random.Random(1))
        announcer.announce(RECORD, LoadReport())
        return Agent(self, announcer, grace=30.0, print_line=lambda line: None)


async def test_the_first_stop_drains_deregisters_and_stops_the_server() -> None:
    scene = Scene()
    agent = scene.agent()
    running = asyncio.create_task(agent.run())
    await scene.beating.wait()
    agent.stop()
    await asyncio.wait_for(running, 30)
    assert scene.calls == ["drain", "leave", "stop", "kill"]


async def test_the_second_stop_deregisters_and_kills_the_server() -> None:
    scene = Scene(endless=True)
    agent = scene.agent()
    running = asyncio.create_task(agent.run())
    await scene.beating.wait()
    agent.stop()
    await auntil(lambda: scene.calls == ["drain"])
    agent.stop()
    await asyncio.wait_for(running, 30)
    assert scene.calls == ["drain", "leave", "kill"]


async def test_a_draining_agent_still_beats() -> None:
    scene = Scene(endless=True)
    agent = scene.agent()
    running = asyncio.create_task(agent.run())
    await scene.beating.wait()
    agent.stop()
    await auntil(lambda: scene.calls == ["drain"])
    scene.beating.clear()
    await asyncio.wait_for(scene.beating.wait(), 30)
    agent.stop()
    await running


async def test_an_agent_whose_server_gave_up_deregisters_and_raises() -> None:
    scene = Scene(fails=True)
    with pytest.raises(GaveUp, match="no GPU"):
        await asyncio.wait_for(scene.agent().run(), 30)
    assert scene.calls[-1] == "kill"
    assert "leave" in scene.calls


async def test_a_fenced_agent_drains_before_it_raises() -> None:
    scene = Scene(fenced=True)
    with pytest.raises(FencedOff):
        await asyncio.wait_for(scene.agent().run(), 30)
    assert scene.calls == ["drain", "leave", "stop", "kill"]


async def test_a_swallowed_cancellation_does_not_hang_the_shutdown() -> None:
    scene = Scene(swallows=2)
    agent = scene.agent()
    running = asyncio.create_task(agent.run())
    await scene.beating.wait()
    agent.stop()
    await asyncio.wait_for(running, 30)
    assert scene.calls == ["drain", "leave", "stop", "kill"]
