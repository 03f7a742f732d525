"""Announcer with a fake registry."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from tests.support.until import auntil
from vllama_pool.workers.agent.announcer import Announcer, FencedOff
from vllama_pool.workers.registry.client import Fenced, Registered, RegistryUnavailable
from vllama_pool.workers.registry.record import LoadReport, WorkerRecord, WorkerState

RECORD = WorkerRecord(id="w", generation=7, url="http://h:1", slots=8)


@dataclass
class FakeStore:
    away: bool = False
    registered: bool = False
    newer: int = 0
    tries: int = 0
    registrations: list[WorkerRecord] = field(default_factory=list)
    loads: list[LoadReport] = field(default_factory=list)
    deregistered: list[tuple[str, int]] = field(default_factory=list)

    async def register(self, record: WorkerRecord, load: LoadReport) -> Registered | Fenced:
        self._check()
        if self.newer:
            return Fenced(self.newer)
        self.registrations.append(record)
        self.loads.append(load)
        self.registered = True
        return Registered("e", len(self.registrations))

    async def beat(self, worker_id: str, generation: int, load: LoadReport) -> bool:
        self._check()
        if self.registered:
            self.loads.append(load)
        return self.registered

    async def deregister(self, worker_id: str, generation: int) -> bool:
        self._check()
        self.deregistered.append((worker_id, generation))
        return True

    def _check(self) -> None:
        self.tries += 1
        if self.away:
            raise RegistryUnavailable("no answer from the registry")


@dataclass
class Case:
    store: FakeStore
    announcer: Announcer
    lines: list[str]


@contextlib.asynccontextmanager
async def running(interval: float = 0.05, **store: object) -> AsyncIterator[Case]:
    lines: list[str] = []
    fake = FakeStore(**store)  # type: ignore[arg-type]
    announcer = Announcer(fake, lines.append, interval=interval, rng=random.Random(1))
    task = asyncio.create_task(announcer.run())
    try:
        yield Case(fake, announcer, lines)
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()):
            raise error


async def test_a_load_report_without_a_record_is_not_sent() -> None:
    async with running(interval=0.01) as case:
        case.announcer.report(LoadReport(state=WorkerState.READY))
        case.announcer.announce(RECORD, LoadReport())
        await auntil(lambda: case.store.loads)
    assert case.store.registrations == [RECORD]


async def test_a_worker_is_registered_once_and_then_beats() -> None:
    async with running() as case:
        case.announcer.announce(RECORD, LoadReport(running=1))
        await auntil(lambda: len(case.store.loads) >= 3)
    assert case.store.registrations == [RECORD]
    assert case.store.loads[0] == LoadReport(running=1)


async def test_a_new_record_is_registered_at_once() -> None:
    async with running(interval=60) as case:
        case.announcer.announce(RECORD, LoadReport())
        await auntil(lambda: len(case.store.registrations) == 1)
        fresh = WorkerRecord(id="w", generation=7, url="http://h:1", pid=5)
        case.announcer.announce(fresh, LoadReport())
        await auntil(lambda: case.store.registrations == [RECORD, fresh])


async def test_a_new_state_is_sent_before_the_next_beat_is_due() -> None:
    async with running(interval=60) as case:
        case.announcer.announce(RECORD, LoadReport())
        await auntil(lambda: case.store.loads)
        case.announcer.report(LoadReport(state=WorkerState.RESTARTING, note="died"))
        await auntil(lambda: case.store.loads[-1].note == "died", 2)


async def test_early_beats_are_limited_to_five_per_second() -> None:
    async with running(interval=60) as case:
        case.announcer.announce(RECORD, LoadReport())
        started = asyncio.get_running_loop().time()
        for number in range(1, 200):
            case.announcer.report(LoadReport(running=8 * number))
            await asyncio.sleep(0.005)
        lasted = asyncio.get_running_loop().time() - started
        assert 2 <= len(case.store.loads) <= lasted * 5 + 2


async def test_a_worker_registers_again_after_the_registry_was_flushed() -> None:
    async with running() as case:
        case.announcer.announce(RECORD, LoadReport())
        await auntil(lambda: len(case.store.loads) >= 2)
        case.store.registered = False
        await auntil(lambda: len(case.store.registrations) == 2)
    assert case.lines == []


async def test_an_unavailable_registry_is_reported_once_and_retried() -> None:
    async with running(away=True) as case:
        case.announcer.announce(RECORD, LoadReport())
        await auntil(lambda: case.lines)
        await auntil(lambda: case.store.tries >= 4)
        assert len(case.lines) == 1
        assert "no answer" in case.lines[0]
        case.store.away = False
        await auntil(lambda: case.store.registrations)
        await auntil(lambda: len(case.lines) == 2)


async def test_an_agent_with_a_newer_rival_is_fenced_off() -> None:
    store = FakeStore(newer=8)
    announcer = Announcer(store, lambda line: None, rng=random.Random(1))
    announcer.announce(RECORD, LoadReport())
    with pytest.raises(FencedOff, match="--name"):
        await asyncio.wait_for(announcer.run(), 5)
    assert store.registrations == []


async def test_deregistering_sends_id_and_generation() -> None:
    async with running() as case:
        case.announcer.announce(RECORD, LoadReport())
        await auntil(lambda: case.store.loads)
    await case.announcer.deregister()
    assert case.store.deregistered == [("w", 7)]
    case.store.away = True
    with pytest.raises(RegistryUnavailable):
        await case.announcer.deregister()


async def test_deregistering_without_a_record_sends_nothing() -> None:
    async with running() as case:
        pass
    await case.announcer.deregister()
    assert case.store.deregistered == []
