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
    """Generation of another start; 0 for none."""
    alive: bool = False
    """The other start beats."""
    other_beats: int = 1
    tries: int = 0
    registrations: list[WorkerRecord] = field(default_factory=list)
    loads: list[LoadReport] = field(default_factory=list)
    deregistered: list[tuple[str, int]] = field(default_factory=list)

    async def register(self, record: WorkerRecord, load: LoadReport) -> Registered | Fenced:
        self._check()
        if record.generation < self.newer:
            self.other_beats += self.alive
            return Fenced(self.newer, self.other_beats)
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


@dataclass
class Clock:
    """Advances by half a second with each look."""

    now: float = 100.0

    def __call__(self) -> float:
        self.now += 0.5
        return self.now


def fresh_agent(store: FakeStore, kept: list[int] | None = None, lines: list[str] | None = None) -> Announcer:
    announcer = Announcer(
        store,
        (lines if lines is not None else []).append,
        interval=0.01,
        rng=random.Random(1),
        keep=(kept if kept is not None else []).append,
        clock=Clock(),
    )
    announcer.announce(RECORD, LoadReport())
    return announcer


async def test_a_fresh_agent_is_refused_while_one_with_a_higher_generation_beats() -> None:
    store = FakeStore(newer=8, alive=True)
    with pytest.raises(FencedOff, match=r"is alive.*--name"):
        await asyncio.wait_for(fresh_agent(store).run(), 30)
    assert store.registrations == []
    assert store.tries == 2


async def test_a_fresh_agent_exceeds_the_generation_of_a_silent_one_and_keeps_its_own() -> None:
    store, kept, lines = FakeStore(newer=8_000), list[int](), list[str]()
    announcer = fresh_agent(store, kept, lines)
    task = asyncio.create_task(announcer.run())
    await auntil(lambda: store.registrations)
    announcer.announce(WorkerRecord(id="w", generation=7, url="http://h:1", pid=5), LoadReport())
    await auntil(lambda: len(store.registrations) == 2)
    task.cancel()
    await asyncio.wait([task])
    generations = {record.generation for record in store.registrations}
    assert generations == set(kept)
    assert len(kept) == 1
    assert kept[0] > 8_000
    assert len(lines) == 1
    assert "with a later clock" in lines[0]
    await announcer.deregister()
    assert store.deregistered == [("w", kept[0])]


async def test_an_agent_that_was_registered_yields_to_a_newer_one_at_once() -> None:
    store = FakeStore()
    announcer = fresh_agent(store)
    task = asyncio.create_task(announcer.run())
    await auntil(lambda: store.registrations)
    store.newer, store.registered = 8, False
    with pytest.raises(FencedOff, match="a newer agent has taken"):
        await asyncio.wait_for(task, 30)
    assert len(store.registrations) == 1


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
